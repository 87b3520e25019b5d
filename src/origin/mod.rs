//! Origins: which one takes a request, how it is reached, and whether it is well.

pub mod attempts;
pub mod balance;
mod budget;
mod caretaker;
pub mod connect;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod h1;
mod h2;
mod health;
pub mod interims;
mod link;
mod names;
pub mod passage;
mod pool;
pub mod request;
mod resolve;
mod state;
mod target;
pub mod upload;

pub use caretaker::PoolTasks;
pub use pool::PoolSet;
pub use state::OriginStatus;
