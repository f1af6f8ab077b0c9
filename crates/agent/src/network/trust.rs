//! The certificate authority of the host's gateway, for the guest's programs to trust.
//!
//! It goes where Debian's and Alpine's `update-ca-certificates` look for local authorities, so
//! that it stays when a guest runs that; and into the bundle that it makes, so that nothing has
//! to run now. The directory of single certificates by hash is left alone: [`VARIABLES`] point
//! what would look there to the bundle.

use std::path::Path;

use super::NetworkError;
use super::files::{replace, set_block};

/// The certificate alone.
const CERTIFICATE: &str = "/usr/local/share/ca-certificates/smolvm.crt";

/// Everything that is trusted, in one file (update-ca-certificates(8)).
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables that make programs trust it which bring their own list: OpenSSL, Python's requests,
/// curl, git, the AWS tools, pip and Node.js, in this order.
pub(crate) const VARIABLES: [(&[u8], &[u8]); 7] = [
    (b"SSL_CERT_FILE", BUNDLE.as_bytes()),
    (b"REQUESTS_CA_BUNDLE", BUNDLE.as_bytes()),
    (b"CURL_CA_BUNDLE", BUNDLE.as_bytes()),
    (b"GIT_SSL_CAINFO", BUNDLE.as_bytes()),
    (b"AWS_CA_BUNDLE", BUNDLE.as_bytes()),
    (b"PIP_CERT", BUNDLE.as_bytes()),
    (b"NODE_EXTRA_CA_CERTS", CERTIFICATE.as_bytes()),
];

/// Has the guest's programs trust `certificate`, in PEM, and no earlier one. Blocks.
pub(crate) fn install(certificate: &str) -> Result<(), NetworkError> {
    install_below(Path::new("/"), certificate)
}

fn install_below(root: &Path, certificate: &str) -> Result<(), NetworkError> {
    let path = root.join(CERTIFICATE.trim_start_matches('/'));
    replace(&path, certificate.as_bytes()).map_err(|source| NetworkError::File { path, source })?;
    set_block(&root.join(BUNDLE.trim_start_matches('/')), certificate)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FIRST: &str = "-----BEGIN CERTIFICATE-----\nAQ==\n-----END CERTIFICATE-----\n";
    const SECOND: &str = "-----BEGIN CERTIFICATE-----\nAg==\n-----END CERTIFICATE-----\n";

    #[test]
    fn image_without_certificates_gets_a_bundle_of_ours_alone() {
        let root = tempfile::tempdir().expect("directory");
        install_below(root.path(), FIRST).expect("installed");
        let bundle = root.path().join("etc/ssl/certs/ca-certificates.crt");
        let alone = root
            .path()
            .join("usr/local/share/ca-certificates/smolvm.crt");
        assert_eq!(fs::read_to_string(alone).expect("readable"), FIRST);
        assert_eq!(
            fs::read_to_string(bundle).expect("readable"),
            format!("# smolvm: begin\n{FIRST}# smolvm: end\n")
        );
    }

    #[test]
    fn later_authority_replaces_the_earlier_and_the_public_ones_stay() {
        let root = tempfile::tempdir().expect("directory");
        let bundle = root.path().join("etc/ssl/certs/ca-certificates.crt");
        fs::create_dir_all(bundle.parent().expect("it has one")).expect("made");
        fs::write(&bundle, "public\n").expect("written");
        for certificate in [FIRST, SECOND, SECOND] {
            install_below(root.path(), certificate).expect("installed");
        }
        assert_eq!(
            fs::read_to_string(bundle).expect("readable"),
            format!("public\n# smolvm: begin\n{SECOND}# smolvm: end\n")
        );
    }
}
