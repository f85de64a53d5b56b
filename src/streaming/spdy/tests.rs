//! Frames against bytes of another implementation, and against themselves.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn frames_without_headers_are_these_bytes() {
    for (frame, bytes) in [
        (Frame::Ping { id: 2 }, "800300060000000400000002"),
        (Frame::RstStream { stream: 5, status: 5 }, "80030003000000080000000500000005"),
        (Frame::GoAway { last_stream: 9, status: 0 }, "80030007000000080000000900000000"),
        (Frame::WindowUpdate { stream: 1, delta: 64 }, "80030009000000080000000100000040"),
        (Frame::Settings { entries: vec![(4, 100)] }, "800300040000000c000000010000000400000064"),
        (Frame::Data { stream: 3, fin: true, data: Bytes::from_static(b"hi") }, "00000003010000026869"),
    ] {
        let mut out = BytesMut::new();
        Encoder::default().encode(&frame, &mut out);
        assert_eq!(out.as_ref(), hex(bytes), "{frame:?}");
        assert_eq!(Decoder::default().decode(&mut out), Ok(Some(frame)));
    }
}

/// Two SYN_STREAMs and a SYN_REPLY, written by moby/spdystream 0.5.1.
const GO_FRAMES: &str = include_str!("golden.hex");

#[test]
fn streams_opened_by_the_go_implementation_are_read() {
    let mut input = BytesMut::from(hex(GO_FRAMES.trim()).as_slice());
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    while let Some(frame) = decoder.decode(&mut input).unwrap() {
        seen.push(frame);
    }
    let syn = |stream, kind: &str| Frame::SynStream {
        stream,
        associated: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: headers(&[("streamtype", kind)]),
    };
    let reply = Frame::SynReply { stream: 1, fin: false, headers: Vec::new() };
    assert_eq!(seen, [syn(1, "error"), syn(3, "stdout"), reply]);
}

#[test]
fn what_is_not_spdy_is_refused() {
    let decode = |bytes: &[u8]| Decoder::default().decode(&mut BytesMut::from(bytes));
    assert_eq!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 0]), Err(FrameError::Version(2)));
    assert_eq!(decode(&[0x80, 3, 0, 1, 0, 0xff, 0, 0]), Err(FrameError::TooLong(0xff_0000)));
    assert_eq!(decode(&[0x80, 3, 0, 6, 0, 0, 0, 0]), Err(FrameError::TooShort(6)));
    assert_eq!(decode(&[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 9, 9, 9, 9]), Err(FrameError::Headers));
    assert_eq!(decode(&[0x80, 3, 0, 99, 0, 0, 0, 0]), Ok(Some(Frame::Unknown { kind: 99 })));
}

fn any_headers() -> impl Strategy<Value = Headers> {
    proptest::collection::vec(("[a-z-]{1,20}", ".{0,200}"), 0..12)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let stream = 0..0x8000_0000_u32;
    prop_oneof![
        (stream.clone(), stream.clone(), 0..8_u8, any::<bool>(), any::<bool>(), any_headers()).prop_map(
            |(stream, associated, priority, fin, unidirectional, headers)| Frame::SynStream {
                stream,
                associated,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (stream.clone(), any::<bool>(), any_headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<bool>(), any_headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        any::<u32>().prop_map(|id| Frame::Ping { id }),
        (stream, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..5000))
            .prop_map(|(stream, fin, data)| Frame::Data { stream, fin, data: data.into() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_come_back_in_order_however_the_bytes_are_cut(
        frames in proptest::collection::vec(any_frame(), 1..8),
        cut in 1..200_usize,
    ) {
        let (mut encoder, mut wire) = (Encoder::default(), BytesMut::new());
        for frame in &frames {
            encoder.encode(frame, &mut wire);
        }
        let (mut decoder, mut input, mut seen) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in wire.chunks(cut) {
            input.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut input).unwrap() {
                seen.push(frame);
            }
        }
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::from(bytes.as_slice()));
        while let Ok(Some(_)) = decoder.decode(&mut input) {}
    }
}
