#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (kvist_fuzzing::find("safetensors").expect("a target").run)(bytes);
});
