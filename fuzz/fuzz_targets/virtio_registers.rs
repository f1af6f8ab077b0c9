#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| smolvm_fuzz_bodies::virtio_registers::run(input));
