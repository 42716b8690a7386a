//! A private PostgreSQL that other machines could reach: on TCP, and only with TLS.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::postgres::{Account, Postgres};

/// A cluster with a certificate for `localhost`, and not for its address.
#[derive(Debug)]
pub struct TlsPostgres {
    cluster: Postgres,
    port: u16,
}

impl TlsPostgres {
    /// Starts one. It is stopped and removed when this is dropped.
    pub fn launch() -> Self {
        // Free a moment ago: PostgreSQL cannot choose one by itself.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Postgres::launch_with(|directory, account| configure(directory, account, port));
        Self { cluster, port }
    }

    /// The URL of a new, empty database, by the cluster's name or its address and with these parameters.
    pub fn database(&self, host: &str, parameters: &str) -> String {
        let name = self.cluster.new_database();
        format!("postgres://postgres:{}@{host}:{}/{name}?{parameters}", Postgres::PASSWORD, self.port)
    }

    /// The certificate of the authority that made the cluster's.
    pub fn authority(&self) -> PathBuf {
        self.cluster.directory().join("ca.crt")
    }

    /// The certificate of an authority that has nothing to do with it.
    pub fn other_authority(&self) -> PathBuf {
        let path = self.cluster.directory().join("other.crt");
        fs::write(&path, authority("another authority").pem()).unwrap();
        path
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes certificate, key and who may come in; returns the settings.
fn configure(directory: &Path, account: Account, port: u16) -> String {
    let authority = authority("the test's authority");
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap().pem();
    for (name, text) in [("ca.crt", authority.pem()), ("server.crt", certificate), ("server.key", key.serialize_pem())]
    {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(account.uid), Some(account.gid)).unwrap();
    }
    fs::write(directory.join("data/pg_hba.conf"), "local all all trust\nhostssl all all all trust\n").unwrap();
    let path = |name| directory.join(name).display().to_string();
    format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
        path("server.crt"),
        path("server.key")
    )
}
