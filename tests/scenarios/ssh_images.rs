//! Root file systems with an SSH server, booted as the user's own files.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use smolvm_image::{
    AlpineError, AlpineSource, AlpineSsh, Cache, DebianSsh, Login, NoProgress, PublicKey, SshImage,
    SshImageError, SshImages, ensure_key_pair,
};
use smolvm_sandbox::{CustomBoot, Lifetime, SandboxSpec};
use smolvm_tests::Host;
use smolvm_tests::alpine_mirror::AlpineMirror;

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

/// What a request of debugfs(8) says about an image that no machine has booted.
fn in_image(image: &SshImage, request: &str) -> String {
    let debugfs = Command::new("debugfs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-R", request])
        .arg(&image.root)
        .output()
        .expect("debugfs is installed with mkfs.ext4");
    assert!(debugfs.status.success(), "{debugfs:?}");
    String::from_utf8(debugfs.stdout).expect("text")
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
            password: Some("two words".to_owned()),
        },
        packages: vec!["bc".to_owned()],
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
    let shadow = host.sh("box", "grep ^root: /etc/shadow").ok().text();
    assert!(shadow.starts_with("root:$6$"), "{shadow}");
    let settings = host.sh(
        "box",
        "/usr/sbin/sshd -T | grep -E '^(permitroot|password)' | sort",
    );
    assert_eq!(
        settings.ok().text(),
        "passwordauthentication yes\npermitrootlogin yes\n"
    );
    assert_eq!(host.sh("box", "echo 6*7 | bc").ok().text(), "42\n");
    let tools = "python3 -c \"print(6*7)\"; git --version | cut -c1-3";
    assert!(host.sh("box", tools).ok().text().starts_with("42\ngit"));
}

fn alpine(source: AlpineSource) -> AlpineSsh {
    AlpineSsh {
        name: "alpine-ssh".to_owned(),
        size_mib: 64,
        login: Login {
            key: None,
            password: Some("smolvm".to_owned()),
        },
        source,
    }
}

fn own_source(mirror: &AlpineMirror, location: String) -> AlpineSource {
    AlpineSource {
        mirror: Some(location),
        minirootfs: None,
        minirootfs_sha256: Some(mirror.minirootfs_sha256.parse().expect("a digest")),
    }
}

#[tokio::test]
async fn alpine_comes_from_a_mirror_and_boots() {
    let host = Host::new();
    let directory = host.path().join("images");
    let mirror = AlpineMirror::new();
    let request = alpine(own_source(&mirror, mirror.serve()));
    let image = images(&host, &directory, |images| images.alpine(&request)).expect("built");
    assert_eq!(image.root, directory.join("alpine-ssh/rootfs.ext4"));
    let keys = in_image(&image, "ls -p /etc/ssh");
    assert!(keys.contains("/sshd_config/"), "{keys}");
    assert!(
        !keys.contains("ssh_host"),
        "no host key in the image: {keys}"
    );
    start(&host, "box", &image).await;
    let sh = |line: &str| host.sh("box", line).ok().text();

    let there = sh("cat /usr/lib/libtest /usr/share/iproute2 /usr/share/curl /usr/share/bash");
    assert_eq!(there, "library\nhere\nhere\nhere\n");
    assert_ne!(host.sh("box", "ls /usr/share/unwanted").code, 0);
    assert_eq!(sh("cat /etc/marker"), "a root of the user's own\n");
    assert_eq!(
        sh("cat /etc/apk/world"),
        "alpine-base\nopenssh\niproute2\ncurl\nbash\n"
    );
    let installed = sh("cat /lib/apk/db/installed");
    assert!(installed.starts_with("C:Q1") && installed.contains("\nP:busybox\n"));
    assert!(installed.contains("\nP:openssh\n") && installed.contains("\nF:usr/sbin\nR:sshd"));
    let shadow = sh("cat /etc/shadow");
    assert!(shadow.starts_with("root:$6$"), "{shadow}");
    assert!(
        shadow.contains("\nbin:!::0:::::\n") && shadow.contains("\nsshd:!:"),
        "{shadow}"
    );
    assert!(sh("cat /etc/passwd").contains("\nsshd:x:22:22:"));

    // The agent runs the image's start script at boot, beside the first commands; once more does no
    // harm, and when it has ended the key is there.
    let _started = host.sh("box", "/etc/smolvm/start").ok();
    assert_eq!(sh("cat /etc/ssh/ssh_host_ed25519_key"), "host key\n");
    let config = sh("cat /root/sshd-started");
    assert!(
        config.contains("PermitRootLogin yes\nPasswordAuthentication yes\n"),
        "{config}"
    );
}

#[test]
fn alpine_image_is_built_anew_only_when_it_was_asked_to_be_another() {
    let host = Host::new();
    let directory = host.path().join("images");
    let mirror = AlpineMirror::new();
    let source = own_source(&mirror, mirror.path().display().to_string());
    let build = |request: &AlpineSsh| {
        let image = images(&host, &directory, |images| images.alpine(request)).expect("built");
        fs::metadata(image.root).expect("there").ino()
    };
    let first = build(&alpine(source.clone()));
    assert_eq!(
        build(&alpine(source.clone())),
        first,
        "what is there is used"
    );
    let mut another = alpine(source);
    another.login.password = Some("another".to_owned());
    assert_ne!(build(&another), first);
    fs::remove_dir_all(mirror.path()).expect("there");
    build(&another);
    let left: Vec<_> = fs::read_dir(&directory)
        .expect("readable")
        .flatten()
        .collect();
    assert_eq!(left.len(), 2, "the image and its lock: {left:?}");
}

#[test]
fn alpine_files_that_are_not_what_they_must_be_are_refused() {
    let host = Host::new();
    let directory = host.path().join("images");
    let mirror = AlpineMirror::new();
    let location = mirror.path().display().to_string();
    let own = own_source(&mirror, location.clone());
    let refusal = |source: AlpineSource| {
        let built = images(&host, &directory, |images| images.alpine(&alpine(source)));
        match built.expect_err("refused") {
            SshImageError::Alpine(error) => error,
            other => panic!("{other:?}"),
        }
    };

    let pinned = AlpineSource {
        minirootfs_sha256: None,
        ..own.clone()
    };
    let error = refusal(pinned);
    assert!(
        matches!(error, AlpineError::MinirootfsDigest { .. }),
        "{error}"
    );
    let alone = AlpineSource {
        mirror: None,
        ..own.clone()
    };
    assert!(matches!(refusal(alone), AlpineError::DigestAlone));

    let package = mirror.package("curl");
    let sound = fs::read(&package).expect("there");
    let other = fs::read(mirror.package("bash")).expect("there");
    fs::write(&package, other).expect("write");
    let error = refusal(own.clone());
    assert!(error.to_string().contains("the package curl"), "{error}");
    fs::write(&package, &sound[..sound.len() - 20]).expect("write");
    let error = refusal(own.clone());
    assert!(error.to_string().contains("the package curl"), "{error}");
    fs::remove_file(&package).expect("there");
    assert!(matches!(refusal(own.clone()), AlpineError::Read { .. }));

    mirror.sign_with_a_strange_key();
    assert!(matches!(refusal(own), AlpineError::Signature));
    let left: Vec<_> = fs::read_dir(&directory)
        .expect("readable")
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "nothing but the lock: {left:?}");
}
