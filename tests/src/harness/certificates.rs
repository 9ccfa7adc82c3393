//! Certificates of CAs that no machine trusts by itself. Each test makes its own, and none is kept.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, date_time_ymd,
};

/// A certificate authority (CA), which signs servers' certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate and key, both as PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// A new CA. Two of the same name have different keys.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = named(name, Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("the parameters are complete"))
    }

    /// Writes its own certificate into `dir` for those who trust it.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, self.0.pem()).expect("the directory is there");
        path
    }

    /// A certificate for a server at `host`, a name or an address.
    #[must_use]
    pub fn issue(&self, host: &str) -> Identity {
        self.sign(&named("server", vec![host.to_owned()]))
    }

    /// The same, but it has expired.
    #[must_use]
    pub fn issue_expired(&self, host: &str) -> Identity {
        let mut params = named("server", vec![host.to_owned()]);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("the parameters are complete");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Identity {
    /// The block `tls` of nats-server's configuration file. The files that it names are in `dir`.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn nats_block(&self, dir: &Path) -> String {
        let (certificate, key) = (dir.join("server.pem"), dir.join("server-key.pem"));
        std::fs::write(&certificate, &self.certificate).expect("the directory is there");
        std::fs::write(&key, &self.key).expect("the directory is there");
        format!("tls: {{ cert_file: \"{}\", key_file: \"{}\" }}\n", certificate.display(), key.display())
    }
}

/// Parameters of a certificate. CAs must not share a name with servers: a certificate that names itself as its issuer
/// counts as self-signed.
fn named(name: &str, hosts: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).expect("host names are ASCII");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
