//! Secrets put in, hidden and refused.

use base64ct::Encoding as _;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::NamePattern;

const VALUE: &str = "sk-live/\"0123456789\"";

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn secret(secret_name: &str, value: &str) -> SecretSpec {
    let hosts = vec![
        NamePattern::Exact(name("api.example.com")),
        NamePattern::Below(name("api.example.com")),
    ];
    SecretSpec::new(secret_name, value, hosts).expect("a secret")
}

fn headers(key: hyper::header::HeaderName, value: &str) -> HeaderMap {
    let value = HeaderValue::from_str(value).expect("a value");
    HeaderMap::from_iter([(key, value)])
}

/// Passes a text through in pieces.
fn in_pieces(mut rewriter: Rewriter, text: &[u8], piece: usize) -> Result<Vec<u8>, SecretRefused> {
    let mut output = Vec::new();
    for piece in text.chunks(piece) {
        output.extend(rewriter.push(Bytes::copy_from_slice(piece))?);
    }
    output.extend(rewriter.finish());
    Ok(output)
}

#[test]
fn value_is_nowhere_in_what_is_shown() {
    let secrets = Secrets::new(vec![secret("KEY", VALUE)]);
    let exchange = secrets.toward(&name("api.example.com"));
    let rewriter = exchange.put_into_body(&HeaderMap::new(), Findings::default());
    for shown in [
        format!("{secrets:?}"),
        format!("{:?}", exchange),
        format!("{rewriter:?}"),
    ] {
        assert!(!shown.contains("0123456789"), "{shown}");
    }
}

#[test]
fn placeholder_is_fixed_by_name_and_random() {
    let secrets = [secret("KEY", VALUE), secret("KEY", VALUE)];
    assert_ne!(secrets[0].placeholder(), secrets[1].placeholder());
    for secret in secrets {
        let random = secret.placeholder().strip_prefix("smolvm-secret-KEY-");
        assert_eq!(random.map(str::len), Some(32));
        let again = SecretSpec::with_placeholder(
            "KEY",
            secret.placeholder(),
            VALUE,
            vec![NamePattern::Exact(name("a.example"))],
        );
        assert_eq!(again.expect("kept").placeholder(), secret.placeholder());
    }
}

#[test]
fn illegal_secrets_say_what_is_wrong() {
    let hosts = || vec![NamePattern::Exact(name("a.example"))];
    let error = |name: &str, value: &str, hosts| {
        SecretSpec::new(name, value, hosts)
            .expect_err("illegal")
            .to_string()
    };
    assert_eq!(
        error("1KEY", VALUE, hosts()),
        "a secret's name has 1 to 64 letters, digits and `_`, and begins with no digit"
    );
    assert_eq!(
        error("KEY", "short", hosts()),
        "the value of secret KEY has 5 bytes; 6 to 8192 are possible"
    );
    assert_eq!(
        error("KEY", "line\nbreak", hosts()),
        "the value of secret KEY has a byte that is not printable ASCII, at offset 4"
    );
    assert_eq!(
        error("KEY", VALUE, Vec::new()),
        "secret KEY has no host that it may be sent to"
    );
    assert_eq!(
        error("KEY", VALUE, vec![NamePattern::Below(name("com"))]),
        "secret KEY could be sent to anybody by `*.com`; name its hosts"
    );
    assert_eq!(
        SecretSpec::with_placeholder("KEY", "smolvm-secret-OTHER-0", VALUE, hosts())
            .expect_err("illegal")
            .to_string(),
        "the placeholder of secret KEY does not have its form"
    );
}

#[test]
fn placeholder_in_the_name_of_a_header_is_refused() {
    let secret = secret("key", VALUE);
    let placeholder = secret.placeholder().to_owned();
    let secrets = Secrets::new(vec![secret]);
    for (exchange, reason) in [
        (secrets.in_clear(), "it is sent over intercepted TLS only"),
        (
            secrets.toward(&name("a.example")),
            "it is not for this host",
        ),
        (
            secrets.toward(&name("api.example.com")),
            "it is put into values, and this is a name",
        ),
    ] {
        let key = placeholder.parse().expect("a name");
        let findings = Findings::default();
        let refused = exchange.put_into_headers(&mut headers(key, "x"), &findings);
        assert_eq!(refused.expect_err("refused").reason, reason);
        assert!(findings.refused().is_some());
    }
}

#[test]
fn secret_is_put_into_headers_and_basic_credentials() {
    let secret = secret("KEY", VALUE);
    let placeholder = secret.placeholder().to_owned();
    let exchange = Secrets::new(vec![secret]).toward(&name("api.example.com"));
    let findings = Findings::default();

    let mut bearer = headers(AUTHORIZATION, &format!("Bearer {placeholder}"));
    exchange
        .put_into_headers(&mut bearer, &findings)
        .expect("put in");
    assert_eq!(bearer[AUTHORIZATION], format!("Bearer {VALUE}").as_str());
    assert!(bearer[AUTHORIZATION].is_sensitive());

    let encoded = base64ct::Base64::encode_string(format!("me:{placeholder}").as_bytes());
    let mut basic = headers(AUTHORIZATION, &format!("basic {encoded}"));
    exchange
        .put_into_headers(&mut basic, &findings)
        .expect("put in");
    let expected = base64ct::Base64::encode_string(format!("me:{VALUE}").as_bytes());
    assert_eq!(basic[AUTHORIZATION], format!("Basic {expected}").as_str());
    assert_eq!(findings.put(), ["KEY"]);
}

#[test]
fn secret_is_written_as_its_place_needs() {
    let secret = secret("KEY", VALUE);
    let placeholder = secret.placeholder().to_owned();
    let exchange = Secrets::new(vec![secret]).toward(&name("x.api.example.com"));
    let path = format!("/v1/{placeholder}?key={placeholder}");
    let path = exchange.put_into_path(&path, &Findings::default());
    assert_eq!(
        path.expect("put in").expect("found"),
        b"/v1/sk-live%2F%220123456789%22?key=sk-live%2F%220123456789%22"
    );
    let body = |content_type: &str| {
        let headers = headers(CONTENT_TYPE, content_type);
        let rewriter = exchange.put_into_body(&headers, Findings::default());
        let body = in_pieces(rewriter, placeholder.as_bytes(), 1000).expect("put in");
        String::from_utf8(body).expect("text")
    };
    assert_eq!(
        body("application/json; charset=utf-8"),
        r#"sk-live/\"0123456789\""#
    );
    assert_eq!(
        body("application/x-www-form-urlencoded"),
        "sk-live%2F%220123456789%22"
    );
    assert_eq!(body("text/plain"), VALUE);
}

#[test]
fn placeholder_is_refused_elsewhere_by_the_secrets_name() {
    let secret = secret("KEY", VALUE);
    let placeholder = secret.placeholder().to_owned();
    let encoded = base64ct::Base64::encode_string(format!("me:{placeholder}").as_bytes());
    let secrets = Secrets::new(vec![secret]);
    for (exchange, reason) in [
        (
            secrets.toward(&name("evil.example")),
            "it is not for this host",
        ),
        (
            secrets.toward(&name("example.com")),
            "it is not for this host",
        ),
        (secrets.in_clear(), "it is sent over intercepted TLS only"),
    ] {
        let refused = SecretRefused {
            name: "KEY".into(),
            reason,
        };
        let findings = Findings::default();
        let mut basic = headers(AUTHORIZATION, &format!("Basic {encoded}"));
        let result = exchange.put_into_headers(&mut basic, &findings);
        assert_eq!(result, Err(refused.clone()));
        assert_eq!(findings.refused(), Some(refused.clone()));
        let body = exchange.put_into_body(&HeaderMap::new(), findings);
        assert_eq!(in_pieces(body, placeholder.as_bytes(), 7), Err(refused));
    }
}

#[test]
fn echoed_value_is_hidden_from_the_guest() {
    let secret = secret("KEY", VALUE);
    let placeholder = secret.placeholder().to_owned();
    let exchange = Secrets::new(vec![secret]).toward(&name("api.example.com"));
    let mut echoed = headers(AUTHORIZATION, &format!("Bearer {VALUE}"));
    exchange.hide_in_headers(&mut echoed);
    assert_eq!(
        echoed[AUTHORIZATION],
        format!("Bearer {placeholder}").as_str()
    );

    for spelling in [
        VALUE,
        "sk-live%2F%220123456789%22",
        "sk-live/\\\"0123456789\\\"",
    ] {
        let body = format!("you sent {spelling}!");
        let hidden = in_pieces(exchange.hide_in_body(), body.as_bytes(), 4);
        let expected = format!("you sent {}!", "*".repeat(spelling.len()));
        assert_eq!(hidden.expect("never refused"), expected.into_bytes());
    }
}

#[test]
fn nothing_is_held_back_that_cannot_begin_a_text() {
    let exchange = Secrets::new(vec![secret("KEY", VALUE)]).toward(&name("api.example.com"));
    let mut rewriter = exchange.hide_in_body();
    let event = Bytes::from_static(b"data: sk-live\n\n");
    let passed = rewriter.push(event.clone()).expect("never refused");
    assert_eq!(passed, event);
    assert_eq!(passed.as_ptr(), event.as_ptr());
}

#[test]
fn scan_finds_a_placeholder_cut_anywhere() {
    let secret = secret("KEY", VALUE);
    let text = format!("AUTH {}\r\n", secret.placeholder());
    let secrets = Secrets::new(vec![secret]);
    for piece in 1..text.len() {
        let mut scan = secrets.scan();
        let found = text
            .as_bytes()
            .chunks(piece)
            .find_map(|piece| scan.push(piece));
        assert_eq!(found.as_deref(), Some("KEY"), "pieces of {piece}");
    }
    assert_eq!(secrets.scan().push(b"smolvm-secret-KEY-"), None);
}

proptest! {
    /// Any text in any pieces becomes what `str::replace` makes of it.
    #[test]
    fn rewriting_is_replacing(
        parts in prop::collection::vec("P|smolvm-secret-|KEY|[a-z]{0,9}", 0..20),
        piece in 1..40_usize,
    ) {
        let secret = secret("KEY", VALUE);
        let placeholder = secret.placeholder().to_owned();
        let text = parts.concat().replace('P', &placeholder);
        let exchange = Secrets::new(vec![secret]).toward(&name("api.example.com"));
        let rewriter = exchange.put_into_body(&HeaderMap::new(), Findings::default());
        let rewritten = in_pieces(rewriter, text.as_bytes(), piece).expect("put in");
        let expected = text.replace(&placeholder, VALUE);
        prop_assert_eq!(String::from_utf8(rewritten).expect("text"), expected);
    }
}
