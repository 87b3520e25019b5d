//! The cache: what may be stored, what is stored, and how it is answered from.

pub mod control;
pub mod freshness;
pub mod object;
pub mod policy;
pub mod purge;
pub mod respond;
pub mod tags;
pub mod vary;
