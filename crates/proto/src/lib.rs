//! Messages, server traits and clients generated from `proto/**.proto`. Knows nothing of what they are used for.
//!
//! `hostagent::v1` is spoken between control plane and host agent, `process`, `filesystem`, `session` and `direct`
//! between the host agent and the guest agent. Generated types stay at these edges: other crates convert them at once.
#![allow(missing_docs, refining_impl_trait_internal, refining_impl_trait_reachable)]
#![allow(clippy::all)]

connectrpc::include_generated!();
