#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::h1_origin_response(data));
