#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nanofaas_fuzz::check("envelope", bytes));
