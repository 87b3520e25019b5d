//! Compression of what passes: a body is coded while it is read, and whenever its origin pauses, what is there goes on.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use zstd::zstd_safe::CParameter;

use crate::cache::waiting::Share;
use crate::config::model::Coding;
use crate::observe::metrics::Metrics;

/// Bytes of a coder's output that go on together.
const ENOUGH: usize = 16 << 10;

/// Levels at which 100 KB take about a millisecond, and a coder less than a MiB: pages are made for one client alone, and
/// many may pass at once.
const ZSTD_LEVEL: i32 = 3;
const ZSTD_TABLES: u32 = 15;
const BROTLI_QUALITY: i32 = 3;
const GZIP_LEVEL: u32 = 4;
/// Of zstd and brotli, as a power of two.
const WINDOW: u8 = 17;
/// Brotli's own buffer for what it gives.
const BROTLI_BUFFER: usize = 4 << 10;

/// A body on its way through an encoder.
pub(super) struct Coder {
    /// `None`: the body has ended.
    encoder: Option<Encoder>,
    /// Whether the encoder has something that it has not given.
    keeps: bool,
    tally: Tally,
    _room: Share,
}

/// Counts what went in and came out, when it is over, however it ended.
struct Tally {
    coding: Coding,
    before: usize,
    after: usize,
    metrics: Arc<Metrics>,
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.metrics.compressed(self.coding.as_str(), self.before, self.after);
    }
}

enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    /// `length`: of the body, if it is known.
    fn new(coding: Coding, length: Option<u64>) -> io::Result<Self> {
        Ok(match coding {
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(WINDOW.into())?;
                encoder.set_parameter(CParameter::HashLog(ZSTD_TABLES))?;
                encoder.set_parameter(CParameter::ChainLog(ZSTD_TABLES))?;
                encoder.set_pledged_src_size(length)?; // less is taken for a small one
                Encoder::Zstd(encoder)
            }
            Coding::Br => {
                let params = brotli::enc::BrotliEncoderParams {
                    quality: BROTLI_QUALITY,
                    lgwin: WINDOW.into(),
                    size_hint: length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default(),
                    ..Default::default()
                };
                Encoder::Br(Box::new(brotli::CompressorWriter::with_params(Vec::new(), BROTLI_BUFFER, &params)))
            }
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
        })
    }

    fn input(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Zstd(encoder) => encoder,
            Encoder::Br(encoder) => encoder,
            Encoder::Gzip(encoder) => encoder,
        }
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Br(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Br(encoder) => Ok(encoder.into_inner()),
            Encoder::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl Coder {
    /// `room`: for one more of them.
    pub(super) fn new(coding: Coding, length: Option<u64>, room: Share, metrics: Arc<Metrics>) -> io::Result<Self> {
        let encoder = Some(Encoder::new(coding, length)?);
        let tally = Tally { coding, before: 0, after: 0, metrics };
        Ok(Coder { encoder, keeps: false, tally, _room: room })
    }

    /// Whether the body has come to its proper end, and the rest was given.
    pub(super) fn has_ended(&self) -> bool {
        self.encoder.is_none()
    }

    /// Takes a piece of the body. Says what is to go on, if that is enough to be worth it.
    pub(super) fn take(&mut self, piece: &[u8]) -> io::Result<Option<Bytes>> {
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        encoder.input().write_all(piece)?;
        self.tally.before += piece.len();
        self.keeps = true;
        let is_enough = encoder.output().len() >= ENOUGH;
        Ok(if is_enough { self.tally.given(std::mem::take(encoder.output())) } else { None })
    }

    /// All of what it was given: nothing more comes for now.
    pub(super) fn flush(&mut self) -> io::Result<Option<Bytes>> {
        let Some(encoder) = self.encoder.as_mut().filter(|_| self.keeps) else { return Ok(None) };
        encoder.input().flush()?;
        self.keeps = false;
        Ok(self.tally.given(std::mem::take(encoder.output())))
    }

    /// The rest: the body has come to its proper end. `None`: it was given before.
    pub(super) fn finish(&mut self) -> io::Result<Option<Bytes>> {
        let Some(encoder) = self.encoder.take() else { return Ok(None) };
        Ok(self.tally.given(encoder.finish()?))
    }
}

impl Tally {
    fn given(&mut self, output: Vec<u8>) -> Option<Bytes> {
        self.after += output.len();
        (!output.is_empty()).then(|| output.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::cache::waiting::Waiting;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

    fn coder(coding: Coding, length: Option<u64>, waiting: &Waiting, metrics: &Arc<Metrics>) -> Coder {
        waiting.coders.set(1, 1);
        Coder::new(coding, length, waiting.coders.take(None, 1).unwrap(), metrics.clone()).unwrap()
    }

    /// What a client can read of so much of a coded body.
    fn decoded(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(coded).unwrap()),
            Coding::Br => Box::new(brotli::Decompressor::new(coded, 4096)),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(coded)),
        };
        let (mut out, mut space) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = reader.read(&mut space) {
            out.extend_from_slice(&space[..read]);
        }
        out
    }

    #[test]
    fn what_was_flushed_can_be_read_and_the_whole_is_the_body() {
        let body: Vec<u8> = (0..9_000).flat_map(|number: u32| format!("line {number}\n").into_bytes()).collect();
        let (waiting, metrics) = (Waiting::default(), Arc::new(Metrics::new()));
        for coding in ALL {
            for (size, length) in [(1000, None), (64 << 10, None), (body.len(), Some(body.len() as u64))] {
                let mut coder = coder(coding, length, &waiting, &metrics);
                let mut coded = Vec::new();
                for (number, piece) in body.chunks(size).enumerate() {
                    coded.extend(coder.take(piece).unwrap().unwrap_or_default());
                    if number % 3 == 0 {
                        coded.extend(coder.flush().unwrap().unwrap_or_default());
                        let so_far = (number * size + piece.len()).min(body.len());
                        assert_eq!(decoded(coding, &coded), &body[..so_far], "{coding:?} {size}");
                        assert_eq!(coder.flush().unwrap(), None, "there is nothing more");
                    }
                }
                coded.extend(coder.finish().unwrap().unwrap_or_default());
                assert_eq!((coder.finish().unwrap(), coder.take(b"x").unwrap()), (None, None));
                assert_eq!(decoded(coding, &coded), body, "{coding:?} {size}");
                assert!(coded.len() < body.len() / 2, "{coding:?} {size} {}", coded.len());
                assert_eq!((coder.tally.before, coder.tally.after), (body.len(), coded.len()));
            }
        }
        assert_eq!(waiting.coders.taken(), 0, "room is given back");
    }

    #[test]
    fn an_empty_body_is_one_in_each_coding() {
        let (waiting, metrics) = (Waiting::default(), Arc::new(Metrics::new()));
        for coding in ALL {
            let mut coder = coder(coding, None, &waiting, &metrics);
            assert_eq!(coder.flush().unwrap(), None);
            let coded = coder.finish().unwrap().unwrap();
            assert_eq!(decoded(coding, &coded), b"", "{coding:?}");
        }
    }
}
