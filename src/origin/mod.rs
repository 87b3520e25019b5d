//! Origins: which one takes a request, how it is reached, and whether it is well.

pub mod attempts;
pub mod balance;
mod budget;
pub mod connect;
pub mod exchange;
pub mod forward;
pub mod h1;
mod h2;
mod health;
pub mod interims;
mod link;
pub mod passage;
mod pool;
mod resolve;
mod state;
pub mod upload;

pub use pool::{NoOrigin, PoolSet, PoolTasks};
pub use state::OriginStatus;
