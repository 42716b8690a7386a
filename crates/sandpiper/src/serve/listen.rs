//! Sockets that the roles serve on, and who may reach them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use control_plane::{Keys, StoreUrl};
use tokio::net::{TcpListener, UnixListener};

use super::ApiArgs;
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

/// Binds the host agent's own address.
pub async fn host_agent(address: SocketAddr) -> anyhow::Result<TcpListener> {
    if !address.ip().is_loopback() {
        let problem = format!("--listen {address}: without TLS the host agent serves only loopback addresses");
        return Err(anyhow::Error::msg(problem).context(BadConfig));
    }
    tcp(address).await
}

async fn tcp(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another server running? Choose another address with --listen")
    })
}

/// The host agent's socket in a data directory. The directory lets only root in, and whoever holds its lock may take
/// the socket over.
pub fn unix(data_dir: &Path) -> anyhow::Result<(UnixListener, PathBuf)> {
    let path = std::path::absolute(data_dir).context("find the data directory")?.join("host-agent.sock");
    if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        bail!("{} is too long for a socket; choose a shorter --data-dir", path.display());
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    Ok((listener, path))
}

/// The kernel's limit, less the byte that ends the text.
const LONGEST_SOCKET_PATH: usize = 107;
