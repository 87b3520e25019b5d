//! Objects to files and back. Pure.

use std::borrow::Cow;

use bytes::Bytes;

use crate::cache::head::Head;
use crate::cache::object::{Content, Object};
use crate::cache::policy::Storable;
use crate::plan::Key;

use super::file::Record;
use super::filter::Filter;
use super::format::{Corrupt, Header, Meta};

/// What is written of an object beside its body.
pub(crate) fn meta(object: &Object) -> Meta<'_> {
    Meta {
        key: object.key().as_str(),
        status: object.head.status.as_u16(),
        fields: object.head.lines().collect(),
        freshness: object.freshness,
        variant: Cow::Borrowed(&object.variant),
        tags: Cow::Borrowed(object.tags()),
        part: object.part(),
    }
}

pub(crate) fn header(object: &Object, meta: &[u8], meta_room: u32, log: u32) -> Header {
    Header {
        log,
        meta: meta.len() as u32, // at most MAX_META
        meta_crc: crc32fast::hash(meta),
        meta_room,
        body: object.length(),
        seq: object.checked(),
        soft_purged: object.soft_purged(),
        filter: Filter::of(object.key().site(), object.key().uri(), &object.tags().hashes),
    }
}

/// The object that a file holds.
pub(crate) fn object(header: &Header, meta: &Meta<'_>, content: Content) -> Result<Object, Corrupt> {
    let (status, fields) = meta.head()?;
    let storable = Storable {
        freshness: meta.freshness,
        variant: meta.variant.clone().into_owned(),
        tags: meta.tags.clone().into_owned(),
        part: meta.part,
        excluded: Vec::new(),
    };
    let head = Head::from_clean(status, fields);
    let object = Object::new(Key::of_written(meta.key), head, content, storable, header.seq);
    object.survived(header.seq, header.soft_purged);
    Ok(object)
}

/// The same without its body.
pub(crate) fn head(record: &Record) -> Result<Object, Corrupt> {
    object(&record.header, &Meta::decode(&record.meta)?, Bytes::new().into())
}
