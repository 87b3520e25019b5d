//! Frames of HTTP/2 on the wire (RFC 9113 sections 4 and 6).

use bytes::{Buf, BufMut, BytesMut};

/// What a client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 9;
/// Bytes of a frame's payload that both sides take without being asked; more is never announced here.
pub(crate) const MAX_PAYLOAD: usize = 16 << 10;
/// What windows are before anybody says otherwise, and the most they may be.
pub(crate) const INITIAL_WINDOW: u32 = 65_535;
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Types of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    /// Of SETTINGS and PING.
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings that matter here, by their numbers.
mod setting {
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NoError = 0,
    ProtocolError = 1,
    InternalError = 2,
    FlowControlError = 3,
    StreamClosed = 5,
    FrameSizeError = 6,
    RefusedStream = 7,
    Cancel = 8,
    CompressionError = 9,
    EnhanceYourCalm = 11,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHeader {
    /// Reads the header that some bytes begin with; `None`: it has not come in full.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let [a, b, c, kind, flags, stream @ ..] = *header;
        let stream = u32::from_be_bytes(stream) & MAX_WINDOW; // the first bit is reserved
        Some(FrameHeader { length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c), kind, flags, stream })
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame's header.
pub(crate) fn put_header(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    out.put_uint(length as u64, 3);
    out.put_slice(&[kind, flags]);
    out.put_u32(stream);
}

/// Appends a field section: HEADERS, and as much CONTINUATION as it needs.
pub(crate) fn put_section(out: &mut BytesMut, stream: u32, section: &[u8], ends_stream: bool) {
    let mut pieces = section.chunks(MAX_PAYLOAD).peekable();
    let (mut kind, mut flags) = (kind::HEADERS, if ends_stream { flag::END_STREAM } else { 0 });
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        put_header(out, piece.len(), kind, flags | last, stream);
        out.put_slice(piece);
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}

pub(crate) fn put_reset(out: &mut BytesMut, stream: u32, reason: Reason) {
    put_header(out, 4, kind::RST_STREAM, 0, stream);
    out.put_u32(reason as u32);
}

pub(crate) fn put_window_update(out: &mut BytesMut, stream: u32, more: u32) {
    put_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.put_u32(more);
}

pub(crate) fn put_goaway(out: &mut BytesMut, last_stream: u32, reason: Reason) {
    put_header(out, 8, kind::GOAWAY, 0, 0);
    out.put_u32(last_stream);
    out.put_u32(reason as u32);
}

pub(crate) fn put_ping(out: &mut BytesMut, payload: [u8; 8], flags: u8) {
    put_header(out, 8, kind::PING, flags, 0);
    out.put_slice(&payload);
}

/// Appends the node's own settings.
pub(crate) fn put_settings(out: &mut BytesMut, max_streams: u32, window: u32, max_section: u32) {
    let settings = [
        (setting::MAX_CONCURRENT_STREAMS, max_streams),
        (setting::INITIAL_WINDOW_SIZE, window),
        (setting::MAX_HEADER_LIST_SIZE, max_section),
    ];
    put_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (number, value) in settings {
        out.put_u16(number);
        out.put_u32(value);
    }
}

/// What the client's settings say that windows are to begin with, if anything (RFC 9113 section 6.5.2). Frames here are never
/// larger than any client takes, nothing is pushed and no dynamic table is used: nothing else matters.
pub(crate) fn initial_window(payload: &[u8]) -> Result<Option<u32>, Reason> {
    if !payload.len().is_multiple_of(6) {
        return Err(Reason::FrameSizeError);
    }
    let mut window = None;
    for &[a, b, value @ ..] in payload.as_chunks::<6>().0 {
        let value = u32::from_be_bytes(value);
        match u16::from_be_bytes([a, b]) {
            setting::ENABLE_PUSH if value > 1 => return Err(Reason::ProtocolError),
            setting::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => return Err(Reason::FlowControlError),
            setting::INITIAL_WINDOW_SIZE => window = Some(value),
            setting::MAX_FRAME_SIZE if !(16 << 10..1 << 24).contains(&value) => return Err(Reason::ProtocolError),
            _ => {}
        }
    }
    Ok(window)
}

/// A payload without its padding (RFC 9113 section 6.1).
pub(crate) fn without_padding(flags: u8, mut payload: BytesMut) -> Result<BytesMut, Reason> {
    if flags & flag::PADDED != 0 {
        let padding = payload.try_get_u8().map_err(|_| Reason::ProtocolError)?;
        let length = payload.len().checked_sub(usize::from(padding)).ok_or(Reason::ProtocolError)?;
        payload.truncate(length);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_frames_are_written_as_they_are_read() {
        let mut out = BytesMut::new();
        put_header(&mut out, 0x01_02_03, kind::DATA, flag::END_STREAM, 77);
        let header = FrameHeader { length: 0x01_02_03, kind: kind::DATA, flags: flag::END_STREAM, stream: 77 };
        assert_eq!(FrameHeader::read(&out), Some(header));
        out[5] |= 0x80; // reserved: ignored
        assert_eq!(FrameHeader::read(&out), Some(header));
        assert_eq!(FrameHeader::read(&out[..8]), None);
    }

    #[test]
    fn long_sections_go_on_in_further_frames() {
        let mut out = BytesMut::new();
        put_section(&mut out, 5, &[7; 2 * MAX_PAYLOAD + 1], true);
        let mut found = Vec::new();
        while let Some(header) = FrameHeader::read(&out) {
            found.push((header.kind, header.flags, header.length));
            let _ = out.split_to(HEADER + header.length);
        }
        let more = (kind::CONTINUATION, 0, MAX_PAYLOAD);
        let last = (kind::CONTINUATION, flag::END_HEADERS, 1);
        assert_eq!(found, [(kind::HEADERS, flag::END_STREAM, MAX_PAYLOAD), more, last]);
    }

    #[test]
    fn settings_are_checked() {
        for (payload, result) in [
            (&[0, 4, 0, 1, 0, 0][..], Ok(Some(65_536))),
            (&[0, 4, 0x80, 0, 0, 0], Err(Reason::FlowControlError)),
            (&[0, 5, 0, 0, 0, 1], Err(Reason::ProtocolError)),
            (&[0, 2, 0, 0, 0, 2], Err(Reason::ProtocolError)),
            (&[0, 99, 1, 2, 3, 4], Ok(None)),
            (&[0, 4, 0], Err(Reason::FrameSizeError)),
        ] {
            assert_eq!(initial_window(payload), result, "{payload:?}");
        }
    }

    #[test]
    fn padding_is_taken_off() {
        for (flags, payload, left) in [
            (0, &b"\x01ab"[..], Ok(&b"\x01ab"[..])),
            (flag::PADDED, b"\x01ab", Ok(b"a")),
            (flag::PADDED, b"\x02ab", Ok(b"")),
            (flag::PADDED, b"\x03ab", Err(Reason::ProtocolError)),
            (flag::PADDED, b"", Err(Reason::ProtocolError)),
        ] {
            assert_eq!(without_padding(flags, payload.into()), left.map(BytesMut::from));
        }
    }
}
