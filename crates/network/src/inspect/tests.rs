//! First bytes as clients send them, in pieces, and as an attacker would.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;

use super::*;
use crate::Name;

/// Returns the first flight of rustls for a name.
fn rustls_hello(name: &str, alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("written to memory");
    hello
}

/// Cuts a handshake message into records of `length` bytes.
fn in_records(message: &[u8], length: usize) -> Vec<u8> {
    let records = message.chunks(length).map(|fragment| {
        let length = u16::try_from(fragment.len()).expect("short").to_be_bytes();
        [&[22, 3, 1], &length[..], fragment].concat()
    });
    records.collect::<Vec<_>>().concat()
}

/// Returns a hello of one record with these extensions.
fn hello_with(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let vector16 = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&length[..], bytes].concat()
    };
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [kind.to_be_bytes().to_vec(), vector16(content)].concat())
        .collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(vector16(&extensions));
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    in_records(&message, 16_384)
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn server_name(name: &[u8]) -> Vec<u8> {
    let length = |extra: usize| {
        let length = u16::try_from(name.len() + extra).expect("short");
        length.to_be_bytes()
    };
    [&length(3)[..], &[0], &length(0), name].concat()
}

fn shown_at_once(bytes: &[u8]) -> Option<Shown> {
    Inspector::default().push(bytes)
}

fn shown_in_pieces(bytes: &[u8], piece: usize) -> Option<Shown> {
    let mut inspector = Inspector::default();
    bytes.chunks(piece).find_map(|piece| inspector.push(piece))
}

fn malformed(bytes: &[u8]) -> &'static str {
    match shown_at_once(bytes) {
        Some(Shown::Malformed(reason)) => reason,
        other => panic!("taken for {other:?}"),
    }
}

#[test]
fn hello_of_rustls_shows_its_name_and_protocols() {
    let hello = rustls_hello("api.Example.com", &["h2", "http/1.1"]);
    let shown = Shown::Tls(ClientHello {
        name: Some(name("api.example.com")),
        has_ech: false,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    });
    assert_eq!(shown_at_once(&hello), Some(shown.clone()));
    assert_eq!(shown_in_pieces(&hello, 1), Some(shown.clone()));
    for length in [1, 2, 3, 100] {
        let records = in_records(&hello[RECORD_HEADER..], length);
        assert_eq!(shown_at_once(&records), Some(shown.clone()));
        assert_eq!(shown_in_pieces(&records, 1), Some(shown.clone()));
    }
}

const RECORD_HEADER: usize = 5;

#[test]
fn hello_without_name_or_with_encrypted_hello_is_told() {
    assert_eq!(
        shown_at_once(&rustls_hello("192.0.2.1", &[])),
        Some(Shown::Tls(ClientHello::default()))
    );
    let with_ech = hello_with(&[(0, &server_name(b"front.example")), (0xfe0d, &[0; 40])]);
    assert_eq!(
        shown_at_once(&with_ech),
        Some(Shown::Tls(ClientHello {
            name: Some(name("front.example")),
            has_ech: true,
            alpn: Vec::new(),
        }))
    );
}

#[test]
fn final_dot_of_a_server_name_is_no_part_of_it() {
    let Some(Shown::Tls(hello)) = shown_at_once(&hello_with(&[(0, &server_name(b"A.example."))]))
    else {
        panic!("no hello");
    };
    assert_eq!(hello.name, Some(name("a.example")));
}

#[test]
fn ambiguous_hellos_are_malformed() {
    let name = server_name(b"a.example");
    let twice = [(0, name.as_slice()), (0, name.as_slice())];
    assert_eq!(malformed(&hello_with(&twice)), "TLS extension twice");

    let two_names = [&[0, 24][..], &name[2..], &name[2..]].concat();
    assert_eq!(
        malformed(&hello_with(&[(0, &two_names)])),
        "TLS hello with another list of names than one host's"
    );
    assert_eq!(
        malformed(&hello_with(&[(0, &server_name(b"a.example\0.b"))])),
        "server name in the TLS hello is not a host's name"
    );
    assert_eq!(
        malformed(&hello_with(&[(0, &server_name(b"192.0.2.1"))])),
        "server name in the TLS hello is not a host's name"
    );

    let mut after = hello_with(&[(0, &name)]);
    after.push(0);
    let length = u16::from_be_bytes([after[3], after[4]]) + 1;
    after[3..5].copy_from_slice(&length.to_be_bytes());
    assert_eq!(
        malformed(&after),
        "TLS message after the hello in its record"
    );
}

#[test]
fn tls_that_is_not_a_hello_first_is_malformed() {
    // OpenSSL skips a warning that precedes the hello.
    let alert = [21, 3, 1, 0, 2, 1, 0];
    let hello = rustls_hello("a.example", &[]);
    assert_eq!(
        malformed(&[&alert[..], &hello].concat()),
        "TLS record before or within the hello"
    );
    let within = [&in_records(&hello[RECORD_HEADER..], 40)[..45], &alert].concat();
    assert_eq!(malformed(&within), "TLS record before or within the hello");
    assert_eq!(malformed(&[22, 3, 1, 0, 0]), "length of a TLS record");
    assert_eq!(malformed(&[22, 3, 1, 0x40, 1]), "length of a TLS record");
    assert_eq!(
        malformed(&[22, 3, 1, 0, 4, 2, 0, 0, 0]),
        "first TLS message is not a hello"
    );
    assert_eq!(
        malformed(&[22, 3, 1, 0, 4, 1, 0, 0x40, 1]),
        "TLS hello of more than 16 KiB"
    );
    assert_eq!(malformed(&[0x80, 46, 1, 3, 1]), "hello of SSL 2");
}

#[test]
fn hello_in_too_many_records_is_malformed() {
    let message = [&[1, 0, 0x30, 0][..], &[0; 0x3000]].concat();
    assert_eq!(
        malformed(&in_records(&message, 1)),
        "TLS hello in more than 32 KiB of records"
    );
}

#[test]
fn http_is_told_whatever_a_lenient_server_takes() {
    for first in [
        "GET / HTTP/1.1\r\n",
        "GET /",
        "\r\n\r\nGET / HTTP/1.1\r\n",
        "  GET / HTTP/1.1\r\n",
        "GET\t/ HTTP/1.1\n",
        "PROPFIND  /  HTTP/1.1\n",
        "purge / http/1.0\n",
    ] {
        assert_eq!(
            shown_at_once(first.as_bytes()),
            Some(Shown::Http),
            "{first:?}"
        );
        assert_eq!(
            shown_in_pieces(first.as_bytes(), 1),
            Some(Shown::Http),
            "{first:?}"
        );
    }
    assert_eq!(
        shown_at_once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0"),
        Some(Shown::Http2)
    );
}

#[test]
fn other_protocols_are_opaque() {
    for first in [
        &b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"[..],
        b"PING\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"get key\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        &[b'a'; 65],
    ] {
        assert_eq!(shown_at_once(first), Some(Shown::Opaque), "{first:?}");
    }
}

#[test]
fn undecided_bytes_wait_for_more() {
    for first in [
        "",
        "G",
        "GET",
        "\r\n",
        "PRI * HT",
        "PROPFIND / HT",
        "\u{16}",
        "\u{16}\u{3}",
    ] {
        assert_eq!(shown_at_once(first.as_bytes()), None, "{first:?}");
    }
}

#[test]
fn client_that_ends_early_has_shown_what_it_sent() {
    for (sent, shown) in [
        (&b""[..], Shown::Silent),
        (b"hi", Shown::Opaque),
        (
            b"\x16\x03\x01",
            Shown::Malformed("TLS hello ends too early"),
        ),
    ] {
        let mut inspector = Inspector::default();
        let at_once = inspector.push(sent);
        assert_eq!(at_once.unwrap_or_else(|| inspector.finish()), shown);
    }
}

/// Bytes near what is understood, so that more than the first branches are reached.
fn near_bytes() -> impl Strategy<Value = Vec<u8>> {
    let random = || prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        random(),
        random().prop_map(|tail| [b"GET ".to_vec(), tail].concat()),
        random().prop_map(|tail| [vec![22, 3, 1], tail].concat()),
        (random(), 1..60_usize).prop_map(|(body, length)| {
            let size = u8::try_from(body.len()).expect("short");
            in_records(&[vec![1, 0, 0, size], body].concat(), length)
        }),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(index, byte)| {
            let mut hello = rustls_hello("a.example", &["h2"]);
            let index = index.index(hello.len());
            hello[index] = byte;
            hello
        }),
    ]
}

proptest! {
    #[test]
    fn however_bytes_are_cut_they_show_the_same(bytes in near_bytes(), piece in 1..50_usize) {
        let at_once = shown_at_once(&bytes);
        prop_assert_eq!(&shown_in_pieces(&bytes, piece), &at_once);
        prop_assert_eq!(&shown_in_pieces(&bytes, 1), &at_once);
    }

    /// What rustls takes as a server is read the same here, and never let through as opaque.
    #[test]
    fn what_rustls_takes_is_read_alike(bytes in near_bytes()) {
        let mut acceptor = rustls::server::Acceptor::default();
        acceptor.read_tls(&mut bytes.as_slice()).expect("read from memory");
        if let Ok(Some(accepted)) = acceptor.accept() {
            let shown_name = accepted.client_hello().server_name().map(name);
            match shown_at_once(&bytes) {
                Some(Shown::Tls(hello)) => prop_assert_eq!(hello.name, shown_name),
                shown => prop_assert!(matches!(shown, Some(Shown::Malformed(_))), "{shown:?}"),
            }
        }
    }
}

#[test]
fn hello_of_ssl2_within_another_hello_is_malformed() {
    let begun = in_records(&[1, 0], 2);
    for record in [[0x80, 0x2e, 1, 3], [0x80, 0x2e, 7, 7]] {
        assert_eq!(
            malformed(&[&begun[..], &record].concat()),
            "record of another protocol within a hello"
        );
    }
}
