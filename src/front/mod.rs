//! The fronts: where clients come in. [`listeners`] opens, [`listen`] accepts, [`h1`] and [`h2`] speak the protocols, [`serve`]
//! is what both do with a request.

mod alarm;
mod bind;
mod body;
mod coder;
mod compress;
mod fault;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod head;
mod listen;
pub(crate) mod listeners;
pub(crate) mod open;
pub mod proxy_protocol;
pub(crate) mod reply;
pub(crate) mod serve;
mod socket;
pub(crate) mod stream;
pub(crate) mod tls;
