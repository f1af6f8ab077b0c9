//! The certificates of the lab's servers, and the authority that vouches for them.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// File of the authority's certificate.
pub(super) const AUTHORITY: &str = "authority.pem";

/// Names for which the servers have a certificate.
const NAMES: &[&str] = &[
    "lab.test",
    "*.lab.test",
    "*.deep.lab.test",
    "elsewhere.test",
];

/// Writes the authority's certificate, and the servers' with its key.
pub(super) fn write(directory: &Path) {
    let mut parameters = CertificateParams::default();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "authority of the lab");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    let authority = parameters.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(parameters, key);

    let names: Vec<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
    let mut parameters = CertificateParams::new(names).expect("names");
    // Python asks for the extension by which a certificate names its issuer's key.
    parameters.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("a key");
    let server = parameters.signed_by(&key, &issuer).expect("a certificate");

    for (name, content) in [
        (AUTHORITY, authority.pem()),
        ("server.pem", server.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        fs::write(directory.join(name), content).expect("written");
    }
}
