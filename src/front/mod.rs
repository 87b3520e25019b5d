//! The fronts: where clients come in. [`listen`] accepts, [`h1`] and [`h2`] speak the protocols, [`serve`]
//! is what both do with a request.

mod alarm;
mod body;
pub mod h1;
pub mod h2;
pub mod head;
pub mod listen;
pub mod open;
pub mod reply;
pub mod serve;
pub mod stream;
pub mod tls;
