//! Alpine's packages and the index of a repository: who signed them, and what is in them.
//!
//! Both are gzip streams one after another (apk-tools v2, "APK package format"):
//!
//! ```text
//!  index:    signature | index            signature: RSA over the bytes of the second stream
//!  package:  signature | control | data   index: SHA-1 of control; control: SHA-256 of data
//! ```

use std::io::Read as _;

use flate2::bufread::GzDecoder;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::{Pkcs1v15Sign, PublicKey};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::AlpineError;

/// Most bytes that one gzip stream may unpack to.
const MAX_UNPACKED_BYTES: u64 = 512 << 20;

/// How names of signatures begin, by the hash that is signed; the key's name follows.
const SIGNATURES: [(&str, Hash); 2] = [(".SIGN.RSA256.", Hash::Sha256), (".SIGN.RSA.", Hash::Sha1)];

#[derive(Clone, Copy)]
enum Hash {
    Sha1,
    Sha256,
}

/// A public key that the minirootfs trusts: its file name, and its PEM text.
pub(super) type TrustedKey = (String, String);

/// Returns the text of the index in `bytes` once a trusted key has signed it.
pub(super) fn signed_index(bytes: &[u8], keys: &[TrustedKey]) -> Result<String, AlpineError> {
    let refuse = |reason| AlpineError::Content {
        what: "APKINDEX.tar.gz".to_owned(),
        reason,
    };
    let (signature, signed) = first_stream(bytes).ok_or_else(|| refuse("it is not gzip"))?;
    let files = files_of(&signature).ok_or_else(|| refuse("its signature is damaged"))?;
    let is_signed = files
        .iter()
        .any(|(name, signature)| is_by_trusted(name, signature, signed, keys));
    if !is_signed {
        return Err(AlpineError::Signature);
    }
    let (index, _) = first_stream(signed).ok_or_else(|| refuse("its content is damaged"))?;
    let files = files_of(&index).ok_or_else(|| refuse("its content is damaged"))?;
    let index = files.into_iter().find(|(name, _)| name == "APKINDEX");
    let (_, index) = index.ok_or_else(|| refuse("it has no index in it"))?;
    String::from_utf8(index).map_err(|_| refuse("its index is not text"))
}

fn is_by_trusted(name: &str, signature: &[u8], signed: &[u8], keys: &[TrustedKey]) -> bool {
    let named = SIGNATURES
        .iter()
        .find_map(|(prefix, hash)| Some((name.strip_prefix(prefix)?, *hash)));
    let Some((key_name, hash)) = named else {
        return false;
    };
    let Some((_, pem)) = keys.iter().find(|(name, _)| name == key_name) else {
        return false;
    };
    let Ok(key) = PublicKey::from_public_key_pem(pem) else {
        return false;
    };
    let verified = match hash {
        Hash::Sha1 => key.verify(
            Pkcs1v15Sign::new::<Sha1>(),
            &Sha1::digest(signed),
            signature,
        ),
        Hash::Sha256 => key.verify(
            Pkcs1v15Sign::new::<Sha256>(),
            &Sha256::digest(signed),
            signature,
        ),
    };
    verified.is_ok()
}

/// Returns the tar archive with the files of the package in `bytes`, once its control part has
/// the SHA-1 digest that the index states, `control_sha1`, and its data the digest that the
/// control part states.
pub(super) fn package_data(
    name: &str,
    bytes: &[u8],
    control_sha1: &[u8],
) -> Result<Vec<u8>, AlpineError> {
    let refuse = |reason| AlpineError::Content {
        what: format!("the package {name}"),
        reason,
    };
    let damaged = || refuse("it is damaged");
    let (_signature, rest) = first_stream(bytes).ok_or_else(damaged)?;
    let (control, data) = first_stream(rest).ok_or_else(damaged)?;
    let control_bytes = &rest[..rest.len() - data.len()];
    if Sha1::digest(control_bytes)[..] != *control_sha1 {
        return Err(refuse("it is not the one that the index names"));
    }
    let files = files_of(&control).ok_or_else(damaged)?;
    let info = files.into_iter().find(|(name, _)| name == ".PKGINFO");
    let info = info.and_then(|(_, info)| String::from_utf8(info).ok());
    let info = info.ok_or_else(damaged)?;
    let stated = info
        .lines()
        .find_map(|line| line.strip_prefix("datahash = "))
        .ok_or_else(|| refuse("it does not state the digest of its data"))?;
    let found: String = Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if stated.trim() != found {
        return Err(refuse("its data is not what it states"));
    }
    let (files, _) = first_stream(data).ok_or_else(damaged)?;
    Ok(files)
}

/// Unpacks the gzip stream at the start of `bytes`; returns its content and what follows it.
fn first_stream(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut decoder = GzDecoder::new(bytes);
    let mut content = Vec::new();
    let mut bounded = (&mut decoder).take(MAX_UNPACKED_BYTES + 1);
    bounded.read_to_end(&mut content).ok()?;
    let is_bounded = u64::try_from(content.len()).is_ok_and(|length| length <= MAX_UNPACKED_BYTES);
    is_bounded.then(|| (content, decoder.into_inner()))
}

/// Returns names and contents of the files in a tar archive, which may lack its end.
fn files_of(tar: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(tar).entries().ok()? {
        let mut entry = entry.ok()?;
        let name = entry.path().ok()?.to_str()?.to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        files.push((name, content));
    }
    Some(files)
}
