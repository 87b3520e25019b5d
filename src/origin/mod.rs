//! Origins: which one takes a request, how it is reached, and whether it is well.

mod address;
pub(crate) mod attempts;
pub(crate) mod balance;
mod budget;
mod caretaker;
pub(crate) mod connect;
mod ejection;
pub(crate) mod error;
pub(crate) mod exchange;
mod files;
pub(crate) mod forward;
pub(crate) mod h1;
mod h2;
mod health;
pub(crate) mod interims;
mod lease;
mod link;
mod names;
mod outliers;
pub(crate) mod passage;
mod pinned;
mod pool;
mod record;
pub(crate) mod request;
mod resolve;
mod state;
mod target;
mod times;
pub(crate) mod upload;

pub(crate) use caretaker::PoolTasks;
pub(crate) use pool::PoolSet;
pub(crate) use state::OriginStatus;
