#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::h2_frames(data));
