//! The cache: what may be stored, what is stored, and how it is answered from.
//!
//! Pure decisions: [`policy`], [`freshness`], [`vary`], [`control`], [`tags`]. The [`engine`]
//! joins them to the store, the purges and the [`fill`]s.

pub(crate) mod coding;
mod compressor;
pub(crate) mod control;
mod durable;
pub(crate) mod engine;
pub(crate) mod explain;
pub(crate) mod fill;
mod fill_buffer;
pub(crate) mod flight;
mod flights;
pub(crate) mod freshness;
pub(crate) mod head;
pub(crate) mod heeded;
pub(crate) mod hold;
mod inspect;
pub(crate) mod lookup;
pub(crate) mod object;
pub(crate) mod part;
pub(crate) mod policy;
pub(crate) mod purge;
pub(crate) mod reason;
pub(crate) mod request;
mod slice;
pub(crate) mod slices;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod stored;
mod sweep;
pub(crate) mod tags;
pub(crate) mod trouble;
mod uncacheable;
pub(crate) mod vary;
pub(crate) mod waiting;

#[cfg(test)]
mod testing;
