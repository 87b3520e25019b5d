//! HTTP/2 over TLS: one connection, many streams. A memory hit is answered where its request is read, with the others
//! that came with it in one write; every other request gets a task ([`answer`]), which hands what it has to the
//! connection ([`stream`]). Bounded like everything a client can fill: what it may have open, send, reset and ask for
//! without taking anything.
//!
//! What a connection does is decided in [`machine`], which has neither a socket nor a clock; [`connection`] has both.

mod abuse_budget;
mod answer;
mod connection;
mod frames;
pub(crate) mod handle;
pub(crate) mod head;
pub mod hpack;
mod huffman;
pub(crate) mod machine;
mod opened;
pub(crate) mod output;
mod respond;
mod socket;
mod static_table;
pub(crate) mod stream;
mod streams;
mod uploads;
pub(crate) mod wire;

pub(crate) use connection::Connection;
