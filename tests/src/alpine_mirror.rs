//! A small copy of Alpine's server, made here: a minirootfs, packages and a signed index.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64ct::{Base64, Encoding as _};
use flate2::Compression;
use flate2::write::GzEncoder;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::{Pkcs1v15Sign, PrivateKey};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::roots;

/// Name of the key that signs the index.
const KEY_NAME: &str = "test@smolvm.rsa.pub";

/// Where a release's files are.
const RELEASE: &str = "v3.23/releases/x86_64/alpine-minirootfs-3.23.2-x86_64.tar.gz";
const REPOSITORY: &str = "v3.23/main/x86_64";

/// Stand-ins for the programs of OpenSSH: they leave word that they ran.
const SSHD: &str = "#!/bin/sh\ncat /etc/ssh/sshd_config > /root/sshd-started\n";
const SSH_KEYGEN: &str = "#!/bin/sh\nfor last; do :; done\necho host key > \"$last\"\n";

/// Packages: name, what it needs, what it provides, its files.
type Described = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);
const PACKAGES: &[Described] = &[
    (
        "openssh",
        "/bin/sh so:libtest.so.1 !dropbear",
        "cmd:sshd=1",
        &[
            ("usr/sbin/sshd", SSHD),
            ("usr/bin/ssh-keygen", SSH_KEYGEN),
            ("etc/ssh/sshd_config", "from the package\n"),
        ],
    ),
    (
        "libtest",
        "",
        "so:libtest.so.1=1.2",
        &[("usr/lib/libtest", "library\n")],
    ),
    (
        "iproute2",
        "libtest>=1",
        "",
        &[("usr/share/iproute2", "here\n")],
    ),
    ("curl", "", "", &[("usr/share/curl", "here\n")]),
    ("bash", "", "", &[("usr/share/bash", "here\n")]),
    ("unwanted", "", "", &[("usr/share/unwanted", "here\n")]),
];

/// The files of a server.
#[derive(Debug)]
pub struct AlpineMirror {
    directory: tempfile::TempDir,
    /// SHA-256 of the minirootfs, in hexadecimal digits.
    pub minirootfs_sha256: String,
}

impl Default for AlpineMirror {
    fn default() -> Self {
        Self::new()
    }
}

impl AlpineMirror {
    /// Makes the files.
    ///
    /// # Panics
    ///
    /// When a program of the host is missing.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let public_key = make_key(&directory.path().join("key"));
        let minirootfs = minirootfs(&public_key);
        let mirror = Self {
            minirootfs_sha256: hex(&Sha256::digest(&minirootfs)),
            directory,
        };
        mirror.write(RELEASE, &minirootfs);
        let mut index = String::new();
        for package in PACKAGES {
            let (bytes, record) = make_package(package);
            mirror.write(&format!("{REPOSITORY}/{}-1.0-r0.apk", package.0), &bytes);
            index.push_str(&record);
        }
        let key = fs::read_to_string(mirror.path().join("key")).expect("key");
        mirror.write_index(&index, &key);
        mirror
    }

    /// Returns the directory with the files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the file of a package.
    #[must_use]
    pub fn package(&self, name: &str) -> PathBuf {
        self.path().join(format!("{REPOSITORY}/{name}-1.0-r0.apk"))
    }

    /// Has the index signed by a key that nobody trusts.
    ///
    /// # Panics
    ///
    /// When a program of the host is missing.
    pub fn sign_with_a_strange_key(&self) {
        let path = self.path().join("strange");
        let _public = make_key(&path);
        self.write_index("", &fs::read_to_string(path).expect("key"));
    }

    fn write_index(&self, index: &str, private_key: &str) {
        let signed = gzip(&archive(&[
            ("DESCRIPTION", 0o644, b"test"),
            ("APKINDEX", 0o644, index.as_bytes()),
        ]));
        let key = PrivateKey::from_pkcs1_pem(private_key).expect("a key");
        let signature = key.sign(Pkcs1v15Sign::new::<Sha1>(), &Sha1::digest(&signed));
        let name = format!(".SIGN.RSA.{KEY_NAME}");
        let signature = archive(&[(&name, 0o644, &signature.expect("signed"))]);
        let file = [gzip(&signature), signed].concat();
        self.write(&format!("{REPOSITORY}/APKINDEX.tar.gz"), &file);
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, content).expect("write");
    }

    /// Serves the files over HTTP until the process ends; returns the URL.
    ///
    /// # Panics
    ///
    /// When there is no port on the loopback interface.
    #[must_use]
    pub fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let root = self.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is none of the test's business.
                let _gone = answer(stream, &root);
            }
        });
        format!("http://{address}")
    }
}

fn answer(mut stream: TcpStream, root: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let found = fs::read(root.join(path.trim_start_matches('/')));
    let (status, body) = match found {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

/// Makes a pair of keys; returns the public one as Alpine keeps it.
fn make_key(path: &Path) -> String {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f"])
        .arg(path)
        .status();
    assert!(made.expect("ssh-keygen is installed").success());
    let public = Command::new("ssh-keygen")
        .args(["-e", "-m", "PKCS8", "-f"])
        .arg(path.with_extension("pub"))
        .output()
        .expect("ssh-keygen");
    String::from_utf8(public.stdout).expect("text")
}

fn minirootfs(public_key: &str) -> Vec<u8> {
    let tree = tempfile::tempdir().expect("directory");
    roots::small_tree(tree.path());
    let write = |path: &str, content: &str| {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, content).expect("write");
    };
    write(&format!("etc/apk/keys/{KEY_NAME}"), public_key);
    write("etc/apk/world", "alpine-base\n");
    write("etc/group", "root:x:0:root\n");
    write("etc/shadow", "root:*::0:::::\nbin:!::0:::::\n");
    let digest = Base64::encode_string(&[0; 20]);
    let busybox = format!("C:Q1{digest}\nP:busybox\nV:1\np:/bin/sh\n\n");
    write("lib/apk/db/installed", &busybox);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", tree.path()).expect("packed");
    gzip(&builder.into_inner().expect("packed"))
}

/// Returns a package and its record of the index.
fn make_package((name, depends, provides, files): &Described) -> (Vec<u8>, String) {
    let files: Vec<_> = files
        .iter()
        .map(|(path, content)| (*path, 0o755, content.as_bytes()))
        .collect();
    let data = gzip(&archive(&files));
    let info = format!(
        "pkgname = {name}\ndatahash = {}\n",
        hex(&Sha256::digest(&data))
    );
    let control = gzip(&archive(&[(".PKGINFO", 0o644, info.as_bytes())]));
    let signature = gzip(&archive(&[(".SIGN.RSA.unread", 0o644, b"unread")]));
    let digest = Base64::encode_string(&Sha1::digest(&control));
    let record =
        format!("C:Q1{digest}\nP:{name}\nV:1.0-r0\nA:x86_64\nD:{depends}\np:{provides}\n\n");
    ([signature, control, data].concat(), record)
}

fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder
            .append_data(&mut header, path, *content)
            .expect("packed");
    }
    builder.into_inner().expect("packed")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
