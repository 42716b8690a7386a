//! Interfaces, addresses, routes and neighbours of one namespace, over its own netlink socket.
//!
//! The socket belongs to the namespace of the thread that opened it, whichever thread uses it afterwards.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{Error, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// Why a request about interfaces failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each field is what the message shows")]
pub enum LinkError {
    /// No netlink socket.
    #[error("opening a netlink socket")]
    Socket(#[source] io::Error),
    /// A veth pair could not be made.
    #[error("making the veth pair {name}")]
    MakeVeth { name: String, source: io::Error },
    /// An interface could not be found.
    #[error("looking for the interface {name}")]
    Find { name: String, source: io::Error },
    /// An interface could not be switched on.
    #[error("switching on the interface {name}")]
    Up { name: String, source: io::Error },
    /// An address could not be added.
    #[error("adding the address {address} to the interface {name}")]
    Address { name: String, address: Ipv4Addr, source: io::Error },
    /// A route could not be added.
    #[error("adding a route to {destination} via {gateway}")]
    Route { destination: String, gateway: Ipv4Addr, source: io::Error },
    /// A neighbour could not be added.
    #[error("adding the neighbour {address} to the interface {name}")]
    Neighbour { name: String, address: Ipv4Addr, source: io::Error },
    /// An interface could not be deleted.
    #[error("deleting the interface {name}")]
    Delete { name: String, source: io::Error },
    /// The interfaces could not be listed.
    #[error("listing the interfaces")]
    List(#[source] io::Error),
}

/// The interfaces of one namespace.
pub(super) struct Links {
    handle: Handle,
}

impl Links {
    /// Those of the calling thread's namespace. Needs a runtime, which drives the socket until this is dropped.
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _unsolicited) = rtnetlink::new_connection().map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Makes a veth pair: `name`, up, here, and `peer`, still down, in another namespace.
    pub async fn add_veth(&self, name: &str, peer: &str, namespace: BorrowedFd<'_>) -> Result<(), LinkError> {
        let peer = LinkUnspec::new_with_name(peer).setns_by_fd(namespace.as_raw_fd()).build();
        let pair = LinkVeth::new(name, "").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).up().build();
        let added = self.handle.link().add(pair).execute().await;
        added.map_err(|error| LinkError::MakeVeth { name: name.to_owned(), source: into_io(error) })
    }

    /// Switches an interface on.
    pub async fn bring_up(&self, name: &str) -> Result<(), LinkError> {
        let changed = self.handle.link().change(LinkUnspec::new_with_name(name).up().build()).execute().await;
        changed.map_err(|error| LinkError::Up { name: name.to_owned(), source: into_io(error) })
    }

    /// Switches an interface on, with this MAC address.
    pub async fn bring_up_as(&self, name: &str, mac: [u8; 6]) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_name(name).address(mac.to_vec()).up().build();
        let changed = self.handle.link().change(message).execute().await;
        changed.map_err(|error| LinkError::Up { name: name.to_owned(), source: into_io(error) })
    }

    /// Gives an interface an address.
    pub async fn add_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), LinkError> {
        let index = self.index(name).await?;
        let added = self.handle.address().add(index, IpAddr::V4(address), prefix).execute().await;
        added.map_err(|error| LinkError::Address { name: name.to_owned(), address, source: into_io(error) })
    }

    /// Tells the MAC address of a neighbour once and for all, so that nobody needs to ask for it.
    pub async fn add_neighbour(&self, name: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<(), LinkError> {
        let index = self.index(name).await?;
        let request = self.handle.neighbours().add(index, IpAddr::V4(address)).link_layer_address(&mac);
        let added = request.execute().await;
        added.map_err(|error| LinkError::Neighbour { name: name.to_owned(), address, source: into_io(error) })
    }

    /// Sends what has no other route to `gateway`.
    pub async fn add_default_route(&self, gateway: Ipv4Addr) -> Result<(), LinkError> {
        self.add_route(RouteMessageBuilder::<Ipv4Addr>::new(), "everywhere".to_owned(), gateway).await
    }

    /// Sends what is for `destination` to `gateway`.
    pub async fn add_route_to(&self, destination: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), LinkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, 32);
        self.add_route(route, destination.to_string(), gateway).await
    }

    /// Deletes an interface; one that is not there counts as deleted.
    pub async fn delete(&self, name: &str) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.handle.link().del_with_message(message).execute().await.map_err(into_io) {
            Err(source) if source.raw_os_error() != Some(libc::ENODEV) => {
                Err(LinkError::Delete { name: name.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// The names of all interfaces.
    pub async fn names(&self) -> Result<Vec<String>, LinkError> {
        let links: Result<Vec<LinkMessage>, Error> = self.handle.link().get().execute().try_collect().await;
        let links = links.map_err(|error| LinkError::List(into_io(error)))?;
        Ok(links.into_iter().filter_map(name_of).collect())
    }

    async fn add_route(
        &self,
        route: RouteMessageBuilder<Ipv4Addr>,
        destination: String,
        gateway: Ipv4Addr,
    ) -> Result<(), LinkError> {
        let added = self.handle.route().add(route.gateway(gateway).build()).execute().await;
        added.map_err(|error| LinkError::Route { destination, gateway, source: into_io(error) })
    }

    async fn index(&self, name: &str) -> Result<u32, LinkError> {
        let failed = |source| LinkError::Find { name: name.to_owned(), source };
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        let link = found.map_err(|error| failed(into_io(error)))?;
        Ok(link.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?.header.index)
    }
}

fn name_of(link: LinkMessage) -> Option<String> {
    link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
