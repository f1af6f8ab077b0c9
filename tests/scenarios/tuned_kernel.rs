//! Guests with the tuned kernel. Building it takes minutes, so these are ignored but for
//! `make test-kernel`, which builds it first and runs other scenarios with it as well.

use smolvm_tests::Host;

#[test]
#[ignore = "needs the tuned kernel: make test-kernel"]
fn guests_boot_the_tuned_kernel_once_it_is_built() {
    let host = Host::new();
    let listed = host.smolvm(&["kernel", "list"]).ok().text();
    let ran = host.smolvm(&["run", "--", "uname", "-r"]).ok();
    assert!(
        ran.text().trim_end().ends_with("-smolvm"),
        "guests booted {}, of:\n{listed}to test the tuned one: smolvm kernel use tuned",
        ran.text()
    );
    // Whatever the user's choice, a kernel can be named.
    let cache = smolvm_image::Cache::open(&host.installation().cache_dir).expect("cache");
    let kernels = smolvm_image::kernels(&cache, &smolvm_image::NoProgress).expect("a list");
    let stock = kernels
        .iter()
        .find(|row| row.flavour == smolvm_image::KernelFlavour::Stock)
        .expect("setup prepared it");
    let image = stock.kernel.image.to_str().expect("UTF-8");
    let ran = host.smolvm(&["run", "--kernel", image, "--", "uname", "-r"]);
    assert_eq!(ran.ok().text().trim_end(), stock.kernel.release);
}

#[test]
#[ignore = "needs the tuned kernel: make test-kernel"]
fn tuned_kernel_has_what_containers_need() {
    let host = Host::new();
    host.start("box", &[]);
    let features = include_str!("tuned_kernel/features.py");
    let done = host.smolvm(&["exec", "box", "--", "python3", "-c", features]);
    let text = done.ok().text();
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "overlay",
            "bridge",
            "links",
            "user namespace",
            "iptables",
            "ip6tables",
            "nftables",
            "io_uring",
            "bpf",
            "controllers",
            "file systems",
            "fuse",
            "tun",
            "loop",
            "vsock",
            "config",
        ]
    );
    let modules = host.sh("box", "test -e /proc/modules || echo none");
    assert_eq!(modules.ok().text(), "none\n");
}
