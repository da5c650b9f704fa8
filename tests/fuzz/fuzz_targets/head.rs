#![no_main]

#[path = "../head_property.rs"]
mod head_property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| head_property::head_holds(bytes));
