//! Sockets that the roles serve on, and who may reach them.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use control_plane::{Keys, StoreUrl};
use host_agent::service::{Listener, Tls};
use tokio::net::{TcpListener, UnixListener};

use super::{ApiArgs, HostListen};
use crate::console::BadConfig;

/// Binds the REST API's address. As long as it asks for no key, whoever reaches it can run code.
pub async fn api(args: &ApiArgs, store: &StoreUrl) -> anyhow::Result<TcpListener> {
    if !args.listen.ip().is_loopback() && !args.insecure_no_auth && !asks_for_keys(store).await? {
        let problem = format!(
            "--listen {} lets other machines run code here, and no key is asked for; make one with `sandpiper key \
             create`, listen on a loopback address, or accept that with --insecure-no-auth",
            args.listen
        );
        return Err(anyhow::Error::msg(problem).context(BadConfig));
    }
    tcp(args.listen).await
}

async fn asks_for_keys(store: &StoreUrl) -> anyhow::Result<bool> {
    let keys = Keys::open(store).await?;
    let are_asked_for = keys.are_asked_for().await?;
    keys.close().await;
    Ok(are_asked_for)
}

/// Binds the host agent's own address, and tells how it is called.
pub async fn host_agent(listen: &HostListen, tls: Option<Tls>) -> anyhow::Result<(Listener, String)> {
    let address = match listen {
        HostListen::Unix(path) => {
            let listener = Listener::Unix(socket(path)?);
            return Ok((listener, listen.to_string()));
        }
        HostListen::Tcp(address) => *address,
    };
    let listener = tcp(address).await?;
    let address = listener.local_addr().context("cannot tell the listen address")?;
    Ok(match tls {
        Some(tls) => (Listener::Tls(listener, tls), format!("https://{address}")),
        None => (Listener::Tcp(listener), format!("http://{address}")),
    })
}

async fn tcp(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another server running? Choose another address with --listen")
    })
}

/// The host agent's socket in a data directory. The directory lets only root in.
pub fn unix(data_dir: &Path) -> anyhow::Result<(UnixListener, PathBuf)> {
    let path = std::path::absolute(data_dir).context("find the data directory")?.join("host-agent.sock");
    Ok((socket(&path)?, path))
}

/// A socket that only its owner may open, in the place of one that nobody listens at any more.
fn socket(path: &Path) -> anyhow::Result<UnixListener> {
    if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        bail!("{} is too long for a socket; choose a shorter path", path.display());
    }
    remove_leftover(path).with_context(|| format!("cannot replace {}", path.display()))?;
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", path.display()))?;
    Ok(listener)
}

/// Whatever else has the name stays where it is.
fn remove_leftover(path: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => bail!("it is no socket"),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another server listens there"),
        Err(_) => Ok(std::fs::remove_file(path)?),
    }
}

/// The kernel's limit, less the byte that ends the text.
const LONGEST_SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_at_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let listener = socket(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(format!("{:#}", socket(&path).unwrap_err()).contains("another server"));
        drop(listener);
        drop(socket(&path).unwrap());
        let file = directory.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(socket(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
}
