//! A proxy that stands before the Kubernetes API, or before Proxmox VE, and lets chosen requests go wrong: the process that sent them is killed or stopped
//! just before they are forwarded or just after they were answered, answers are lost, late or replaced, watches are cut or held.
//!
//! It speaks HTTPS on both sides, and pairs connections: one of the client is one to the server, and when either end closes, so does the other. A server that
//! closes idle connections, as Proxmox VE does after 5 s, is seen by the client as if there were no proxy.
//!
//! ```no_run
//! # async fn example(ca_pem: String, pid: u32) -> Result<(), fault_proxy::ProxyError> {
//! use fault_proxy::{Act, Faults, Moment, Proxy, Rule, Service, Upstream};
//!
//! let faults = Faults::default();
//! let server = Upstream { service: Service::Kubernetes, address: "127.0.0.1:6443".parse().unwrap(), ca_pem };
//! let proxy = Proxy::start(server, faults.clone()).await?;
//! // The third write kills the process that sent it, before the API server has heard of it.
//! faults.target(pid);
//! faults.add(Rule::new(Moment::Before, Act::Kill).skip(2).matching(|request| request.is_write()));
//! println!("{}", proxy.url());
//! # Ok(())
//! # }
//! ```

mod certificate;
mod faults;
mod forward;
mod proxy;
mod request;
mod rule;

pub use faults::Faults;
pub use proxy::{Proxies, Proxy, ProxyError, Upstream};
pub use request::{Exchange, Request, Service};
pub use rule::{Act, Moment, Rule, RuleId};
