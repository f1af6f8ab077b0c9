//! An open network carries what programs do.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use smolvm_tests::lab::{ECHO, ECHO_V6, Guest, Lab};

use super::guest::{REACH, SHAPES, STREAMS};

/// Bytes that are fetched and sent: long enough to fill every buffer on the way many times.
const LONG_BYTES: u64 = 96 << 20;

/// Bytes of a download as long as a model's or an image's.
const VERY_LONG_BYTES: u64 = 1 << 30;

#[test]
fn programs_work_as_anywhere() {
    let lab = Lab::new();
    publish_package(&lab.site());
    publish_repository(&lab.site());
    publish_archive(&lab.site());
    let guest = lab.guest("box", &["--net", "open"]);
    pages_come_by_name(&guest);
    python_fetches(&guest);
    repository_is_cloned(&guest);
    package_is_installed(&guest);
    archive_is_used(&guest);
    let streams = guest.python(STREAMS, &["web.lab.test"]);
    assert_eq!(
        streams,
        json!({"websocket": "over a socket", "events": ["first", "second"]})
    );
}

#[test]
fn connections_of_every_shape_are_carried() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net", "open"]);
    let shapes = guest.python(SHAPES, &[ECHO]);
    assert_eq!(shapes["short"], 1000);
    assert_eq!(shapes["parallel"], 200);
    for whole in ["half_close", "slow_writer", "late_reader"] {
        assert_eq!(shapes[whole], true, "{whole}");
    }
    assert_eq!(shapes["reset"], "ECONNRESET");
    assert_eq!(shapes["refused"], "ECONNREFUSED");
    let datagrams = shapes["datagrams"].as_object().expect("an object");
    assert!(
        datagrams.values().all(|is_echoed| is_echoed == true),
        "{datagrams:?}"
    );
    for destination in [
        format!("ping {ECHO} 0"),
        format!("ping {ECHO_V6} 0"),
        format!("udp {ECHO_V6} 7"),
    ] {
        let outcome = guest.python(REACH, &[&destination]);
        assert_eq!(outcome, json!({destination: "answered"}));
    }
}

#[test]
fn long_transfers_arrive_whole_in_both_directions_at_once() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net", "open"]);
    let url = format!("http://web.lab.test/bytes/{LONG_BYTES}");
    let digest = lab
        .run(&["curl", "-sS", &format!("{url}/sha256")])
        .ok()
        .text();
    let line = format!("curl -sS {url} | curl -sS -T - http://web.lab.test/upload");
    let uploaded = guest.sh(&line).ok().text();
    assert_eq!(uploaded, digest);
    let counted = guest.sh(&format!(
        "curl -sS http://web.lab.test/bytes/{VERY_LONG_BYTES} | wc -c"
    ));
    assert_eq!(counted.ok().text(), format!("{VERY_LONG_BYTES}\n"));
}

fn pages_come_by_name(guest: &Guest<'_>) {
    for (url, scheme) in [
        ("http://web.lab.test/", "http"),
        ("https://web.lab.test/", "https"),
        ("-6 https://web.lab.test/", "https"),
    ] {
        let page = guest
            .sh(&format!("curl -sS --cacert $CA {url}"))
            .ok()
            .json();
        assert_eq!(page["scheme"], scheme, "{url}");
        assert_eq!(page["host"], "web.lab.test", "{url}");
    }
}

fn python_fetches(guest: &Guest<'_>) {
    let page = guest.sh("SSL_CERT_FILE=$CA python3 -c '\
        import urllib.request as web; print(web.urlopen(\"https://web.lab.test\").read().decode())'");
    assert_eq!(page.ok().json()["sni"], "web.lab.test");
    // The image has this library within pip.
    let page = guest.sh("REQUESTS_CA_BUNDLE=$CA python3 -c '\
        from pip._vendor import requests; print(requests.get(\"https://web.lab.test\").text)'");
    assert_eq!(page.ok().json()["sni"], "web.lab.test");
}

fn repository_is_cloned(guest: &Guest<'_>) {
    let read = guest.sh(
        "cd /tmp && git clone --quiet http://web.lab.test/site/project.git && cat project/greeting",
    );
    assert_eq!(read.ok().text(), "hello from the lab\n");
}

fn package_is_installed(guest: &Guest<'_>) {
    let greeted = guest.sh(
        "pip install --quiet --root-user-action ignore --disable-pip-version-check \
           --index-url https://web.lab.test/site/simple/ --cert $CA greeting \
         && python3 -c 'import greeting; print(greeting.TEXT)'",
    );
    assert_eq!(greeted.ok().text(), "hello from a wheel\n");
}

fn archive_is_used(guest: &Guest<'_>) {
    let greeted = guest.sh(
        "echo 'deb [trusted=yes] http://web.lab.test/site/archive ./' >/tmp/lab.list \
         && apt='apt-get -qq -o Dir::Etc::SourceList=/tmp/lab.list -o Dir::Etc::SourceParts=/none' \
         && $apt update && $apt install lab-greeting >&2 && lab-greeting",
    );
    assert_eq!(greeted.ok().text(), "hello from an archive\n");
}

/// Makes an archive of Debian packages (sources.list(5), a flat one) with one package.
fn publish_archive(site: &Path) {
    let script = "mkdir -p package/DEBIAN package/usr/bin archive \
        && printf '#!/bin/sh\necho hello from an archive\n' >package/usr/bin/lab-greeting \
        && chmod 755 package/usr/bin/lab-greeting \
        && printf 'Package: lab-greeting\nVersion: 1\nArchitecture: all\n\
Maintainer: Lab <lab@lab.test>\nDescription: a greeting\n' >package/DEBIAN/control \
        && dpkg-deb --root-owner-group --build package archive/lab-greeting.deb >&2 \
        && cd archive \
        && { cat ../package/DEBIAN/control; echo Filename: ./lab-greeting.deb; \
             echo Size: $(stat --format %s lab-greeting.deb); \
             echo SHA256: $(sha256sum lab-greeting.deb | cut -d' ' -f1); } >Packages";
    run(Command::new("sh").args(["-ec", script]).current_dir(site));
}

/// Makes a repository that git's dumb protocol can read: plain files.
fn publish_repository(site: &Path) {
    let script = "git init --quiet work && cd work && echo 'hello from the lab' >greeting \
        && git add greeting \
        && git -c user.name=lab -c user.email=lab@lab.test commit --quiet --message greet \
        && git clone --quiet --bare . ../project.git && cd ../project.git && git update-server-info";
    run(Command::new("sh").args(["-ec", script]).current_dir(site));
}

/// Makes an index (PEP 503) with one wheel (PEP 427).
fn publish_package(site: &Path) {
    let project = site.join("simple/greeting");
    let wheel = site.join("wheel");
    let metadata = wheel.join("greeting-1.0.dist-info");
    fs::create_dir_all(&project).expect("directory");
    fs::create_dir_all(&metadata).expect("directory");
    let name = "greeting-1.0-py3-none-any.whl";
    for (path, content) in [
        (
            wheel.join("greeting.py"),
            "TEXT = 'hello from a wheel'\n".to_owned(),
        ),
        (
            metadata.join("METADATA"),
            "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n".to_owned(),
        ),
        (
            metadata.join("WHEEL"),
            "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
                .to_owned(),
        ),
        (
            metadata.join("RECORD"),
            "greeting.py,,\ngreeting-1.0.dist-info/METADATA,,\ngreeting-1.0.dist-info/WHEEL,,\n\
             greeting-1.0.dist-info/RECORD,,\n"
                .to_owned(),
        ),
        (
            project.join("index.html"),
            format!("<a href=\"{name}\">{name}</a>\n"),
        ),
    ] {
        fs::write(path, content).expect("written");
    }
    run(Command::new("python3")
        .args(["-m", "zipfile", "-c"])
        .arg(project.join(name))
        .args(["greeting.py", "greeting-1.0.dist-info"])
        .current_dir(&wheel));
}

fn run(command: &mut Command) {
    assert!(
        command.status().expect("installed").success(),
        "{command:?}"
    );
}
