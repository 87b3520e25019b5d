//! Origins: which one takes a request, how it is reached, and whether it is well.

pub mod balance;
pub mod connect;
pub mod exchange;
pub mod forward;
pub mod h1;
mod health;
pub mod passage;
mod pool;
mod resolve;
mod state;

pub use pool::{FailedStage, NoOrigin, Picked, PoolRuntime, PoolSet, PoolTasks, Tried};
pub use state::{ActiveGuard, OriginState, OriginStatus};
