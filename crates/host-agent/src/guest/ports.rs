//! Connections to services inside a guest, on whichever of its addresses they listen.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::direct::PORT as DIRECT_PORT;
use super::{Guest, PORT};
use crate::net::GuestStream;

/// Where the guest agent joins us to services that listen on the guest's loopback alone.
const LOCAL_PORT: u16 = 49981;

/// What the agent says when somebody listens there.
const JOINED: u8 = 0;

/// A guest refuses at once; this is for one that is drowned in work, or swallows what asks for a connection. The agent
/// inside takes as long for each of two addresses.
const DEADLINE: Duration = Duration::from_secs(5);
const LOCAL_DEADLINE: Duration = Duration::from_secs(12);

/// Why there is no connection to a service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// It is the guest agent's.
    #[error("port {0} is the guest agent's own")]
    Reserved(u16),
    /// Nobody listens.
    #[error("nothing listens at port {0}")]
    Closed(u16),
    /// Neither yes nor no.
    #[error("port {port} does not answer")]
    Silent {
        /// The port.
        port: u16,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Guest {
    /// A connection to whatever listens at `port`: on the guest's outer address, or else on its loopback.
    pub async fn open_port(&self, port: u16) -> Result<GuestStream, PortError> {
        if [PORT, DIRECT_PORT, LOCAL_PORT].contains(&port) {
            return Err(PortError::Reserved(port));
        }
        match self.connector.connect(port, DEADLINE).await {
            Ok(stream) => Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.join(port).await,
            Err(source) => Err(PortError::Silent { port, source }),
        }
    }

    async fn join(&self, port: u16) -> Result<GuestStream, PortError> {
        let joined = async {
            let mut stream = self.connector.connect(LOCAL_PORT, DEADLINE).await?;
            stream.write_u16(port).await?;
            Ok::<_, io::Error>((stream.read_u8().await?, stream))
        };
        match tokio::time::timeout(LOCAL_DEADLINE, joined).await {
            Ok(Ok((JOINED, stream))) => Ok(stream),
            Ok(Ok(_)) => Err(PortError::Closed(port)),
            // An agent of an earlier release, in a snapshot, does not listen there.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(PortError::Closed(port)),
            Ok(Err(source)) => Err(PortError::Silent { port, source }),
            Err(late) => Err(PortError::Silent { port, source: late.into() }),
        }
    }
}
