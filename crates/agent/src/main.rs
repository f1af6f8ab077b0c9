//! The binary: PID 1 of the guest, `/init` of its initramfs.

fn main() -> std::process::ExitCode {
    smolvm_agent::init::run()
}
