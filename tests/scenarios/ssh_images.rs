//! Root file systems with an SSH server, booted as the user's own files.

use std::fs;
use std::path::Path;

use smolvm_image::{
    Cache, DebianSsh, Login, NoProgress, PublicKey, SshImage, SshImages, ensure_key_pair,
};
use smolvm_sandbox::{CustomBoot, Lifetime, SandboxSpec};
use smolvm_tests::Host;

fn images<R>(host: &Host, directory: &Path, act: impl FnOnce(&SshImages<'_>) -> R) -> R {
    let cache = Cache::open(&host.installation().cache_dir).expect("cache");
    act(&SshImages {
        cache: &cache,
        directory,
        progress: &NoProgress,
    })
}

async fn start(host: &Host, name: &str, image: &SshImage) {
    let custom = CustomBoot {
        kernel: Some(image.kernel.clone()),
        root_image: Some(image.root.clone()),
        ..CustomBoot::default()
    };
    let id = name.parse().expect("a name");
    let spec = SandboxSpec {
        custom: Some(custom),
        ..SandboxSpec::new(id, Lifetime::Persistent)
    };
    host.create(spec).await.expect("created");
    let _started = host.smolvm(&["start", name]).ok();
}

/// Logs in over SSH from the guest to itself and returns what a command says there.
///
/// The agent runs the image's start script at boot; running it once more does no harm.
fn ssh_in_guest(host: &Host, name: &str, private_key: &Path, command: &str) -> String {
    let copied = private_key.to_str().expect("text");
    let _copied = host
        .smolvm(&["cp", copied, &format!("{name}:/tmp/key")])
        .ok();
    let line = format!(
        "chmod 600 /tmp/key; (: < /dev/tcp/127.0.0.1/22) 2> /dev/null || /etc/smolvm/start; \
         ssh -i /tmp/key -o BatchMode=yes -o StrictHostKeyChecking=no root@127.0.0.1 '{command}'"
    );
    host.smolvm(&["exec", name, "--", "bash", "-c", &line])
        .ok()
        .text()
}

#[tokio::test]
async fn debian_lets_in_whoever_has_the_key() {
    let host = Host::new();
    let directory = host.path().join("images");
    let keys = ensure_key_pair(&host.path().join("keys"), None).expect("keys");
    let request = DebianSsh {
        name: "debian-ssh-key".to_owned(),
        size_mib: 2048,
        login: Login {
            key: Some(PublicKey::from_file(&keys.public).expect("a key")),
            password: None,
        },
        packages: Vec::new(),
    };
    let image = images(&host, &directory, |images| images.debian(&request)).expect("built");
    assert_eq!(image.kernel, directory.join("debian-ssh-key/vmlinux.bin"));
    assert_eq!(image.root, directory.join("debian-ssh-key/rootfs.ext4"));
    let built = fs::metadata(&image.root).expect("there");
    assert_eq!(built.len(), 2048 << 20);
    let names: Vec<_> = fs::read_dir(&directory)
        .expect("readable")
        .flatten()
        .collect();
    assert_eq!(names.len(), 2, "only the image and its lock: {names:?}");

    let again = images(&host, &directory, |images| images.debian(&request)).expect("there");
    assert_eq!(again, image);
    let unchanged = fs::metadata(&again.root).expect("there").modified();
    assert_eq!(unchanged.expect("time"), built.modified().expect("time"));

    start(&host, "box", &image).await;
    let no_keys = host.sh(
        "box",
        "stat -c '%a %U' /root/.ssh /root/.ssh/authorized_keys",
    );
    assert_eq!(no_keys.ok().text(), "700 root\n600 root\n");
    let user = ssh_in_guest(&host, "box", &keys.private, "id -un; hostname");
    assert_eq!(user, "root\nbox\n");
    let tools = "python3 -c \"print(6*7)\"; git --version | cut -c1-3";
    assert!(host.sh("box", tools).ok().text().starts_with("42\ngit"));
}
