#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::cache_control_and_vary(data));
