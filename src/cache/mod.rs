//! The cache: what may be stored, what is stored, and how it is answered from.
//!
//! Pure decisions: [`policy`], [`freshness`], [`respond`], [`vary`], [`control`], [`tags`]. The [`engine`]
//! joins them to the store, the purges and the [`fill`]s.

pub mod coding;
mod compressor;
pub mod control;
pub mod engine;
pub mod explain;
pub mod fill;
mod fill_buffer;
pub mod flight;
mod flights;
pub mod freshness;
pub mod head;
pub mod hold;
mod inspect;
pub mod lookup;
mod negotiate;
pub mod object;
pub mod part;
pub mod policy;
pub mod purge;
pub mod range;
pub mod reason;
pub mod request;
pub mod respond;
mod slice;
pub mod slices;
pub mod status;
pub mod store;
pub mod stored;
mod sweep;
pub mod tags;
pub mod trouble;
mod uncacheable;
pub mod vary;
pub mod waiting;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
