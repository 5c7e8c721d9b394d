//! Emulators of the clouds' APIs, as far as the adapters use them: for tests, in one process or behind a port.
//!
//! Each turns requests into calls of some [`Provider`] and its answers into the vendor's: over `nspawn` the hosts really
//! boot, over the cloud of the simulation they live in memory and everything fails on purpose. A request that the
//! vendor's own description does not allow is refused and kept as a complaint. An emulator is not the cloud: it says
//! nothing about quotas, prices, or what the vendor does beside its documents.

#![allow(dead_code, reason = "the unit tests and the tests of the program each use a part")]

pub(crate) mod aws;
pub(crate) mod azure;
pub(crate) mod description;
pub(crate) mod gcp;
pub(crate) mod promises;

use std::sync::Arc;
use std::time::Duration;

use lane::provider::http::{Body, Request, Response, Wire, WireError};
use lane::provider::{HostId, Label, Provider, ProviderError};

/// Where the emulators' operator is seen from.
pub(crate) const ADDRESS: &str = "192.0.2.77";

/// How long the cloud behind may hide a machine that it made.
const HIDDEN: Duration = Duration::from_secs(12);

/// The adapters that there is an emulator for.
pub(crate) const ADAPTERS: [&str; 3] = ["aws", "azure", "gcp"];

/// What tests ask of any emulator.
pub(crate) trait Emulator: Wire {
    /// Requests that the vendor would not have understood.
    fn complaints(&self) -> Vec<String>;

    /// What was made through this API beside hosts and is still there.
    fn leftovers(&self) -> Vec<String>;

    /// Puts things there that are none of this lane's, as like them as can be; returns what requests call them by.
    fn add_strangers(&self, ours: &Label) -> Vec<String>;

    /// The id by which the adapter knows a host of the cloud behind.
    fn id_of(&self, host: &HostId) -> HostId;

    /// Every request so far: what it asks, with its body.
    fn requests(&self) -> Vec<Request>;
}

/// Makes the emulator of a provider, over something that makes hosts.
pub(crate) fn over(provider: &str, hosts: Arc<dyn Provider>) -> Option<Arc<dyn Emulator>> {
    match provider {
        "aws" => Some(Arc::new(aws::Aws::over(hosts))),
        "azure" => Some(Arc::new(azure::Azure::over(hosts))),
        "gcp" => Some(Arc::new(gcp::Gcp::over(hosts))),
        _ => None,
    }
}

/// Tells whether a request changes nothing.
pub(crate) fn reads(request: &Request) -> bool {
    let action = request.parameter("Action").unwrap_or_default();
    request.method == reqwest::Method::GET || ["Describe", "Get"].iter().any(|word| action.starts_with(word))
}

/// Tells whether a request names a thing, in its path or in its form.
pub(crate) fn names(request: &Request, thing: &str) -> bool {
    let in_form = match &request.body {
        Some(Body::Form(form)) => form.iter().any(|(_, value)| value == thing),
        _ => false,
    };
    in_form || request.url.split(['/', '?']).any(|part| part == thing)
}

/// Returns how a vendor refuses.
pub(crate) fn refusal(provider: &str, refusal: Refusal) -> Result<Response, WireError> {
    match provider {
        "aws" => aws::refuse(refusal),
        "azure" => azure::refuse(refusal),
        _ => gcp::refuse(refusal),
    }
}

/// Returns what stands for the vendor's address; its path is part of what the emulator reads.
pub(crate) fn endpoint(provider: &str, host: &str) -> String {
    match provider {
        "gcp" => format!("http://{host}/compute/v1"),
        _ => format!("http://{host}"),
    }
}

/// Returns the keys that a spec has to name for a provider.
pub(crate) fn keys(provider: &str) -> serde_json::Value {
    match provider {
        "aws" => serde_json::json!({"region": "here"}),
        "azure" => serde_json::json!({"subscription": "00000000-0000-0000-0000-000000000000"}),
        "gcp" => serde_json::json!({"project": "my-project"}),
        _ => serde_json::json!({}),
    }
}

/// Returns keys that change what an adapter asks for.
pub(crate) fn other_keys(provider: &str) -> serde_json::Value {
    match provider {
        "aws" => serde_json::json!({"spot": true, "subnet": "subnet-1"}),
        "azure" => serde_json::json!({"spot": true}),
        "gcp" => serde_json::json!({"spot": true, "network": "other", "subnetwork": "part"}),
        _ => serde_json::json!({}),
    }
}

/// Returns a SKU that is asked for in another way than the default one, to have KVM.
pub(crate) fn nesting_sku(provider: &str) -> Option<&'static str> {
    (provider == "aws").then_some("m8i.xlarge")
}

/// Returns an image by the vendor's own id.
pub(crate) fn raw_image(provider: &str) -> &'static str {
    match provider {
        "aws" => "ami-0123456789abcdef0",
        "azure" => "Canonical:ubuntu-24_04-lts:server-gen1:24.04.202605010",
        _ => "projects/my-project/global/images/mine",
    }
}

/// Returns variables of credentials that together lead nowhere, which is told before anything is sent.
pub(crate) fn wrong_credentials(provider: &str) -> &'static [(&'static str, &'static str)] {
    match provider {
        "aws" => &[("AWS_PROFILE", "nobody")],
        "azure" => &[
            ("AZURE_TENANT_ID", "mine"),
            ("AZURE_CLIENT_ID", "mine"),
            ("AZURE_FEDERATED_TOKEN_FILE", "nowhere"),
        ],
        "gcp" => &[("GOOGLE_APPLICATION_CREDENTIALS", "nowhere.json")],
        _ => &[],
    }
}

/// Returns the credentials of each kind beside the first one, whose requests nobody would see otherwise.
pub(crate) fn credentials(provider: &str) -> &'static [&'static [(&'static str, &'static str)]] {
    match provider {
        "azure" => &[
            &[("ARM_TENANT_ID", "mine"), ("ARM_CLIENT_ID", "mine"), ("ARM_OIDC_TOKEN", "a-token")],
            &[
                ("AZURE_TENANT_ID", "mine"),
                ("AZURE_CLIENT_ID", "mine"),
                ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://github.example/id-token?version=1"),
                ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a-token"),
            ],
            // An emulator's address is asked without any.
            &[("AZURE_CLIENT_ID", "mine"), ("LANE_AZURE_ENDPOINT", "")],
            &[
                ("AZURE_CLIENT_ID", "mine"),
                ("IDENTITY_ENDPOINT", "http://169.254.255.2/msi/token"),
                ("IDENTITY_HEADER", "a-header"),
                ("LANE_AZURE_ENDPOINT", ""),
            ],
        ],
        // Nobody asks an emulator's address with any of these.
        "gcp" => &[
            &[("CLOUDSDK_AUTH_ACCESS_TOKEN", "a-token"), ("LANE_GCP_ENDPOINT", "")],
            &[("LANE_GCP_ENDPOINT", "")],
        ],
        _ => &[],
    }
}

/// What a provider under an emulator did, in words that each vendor has its own for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unauthorised,
    Expired,
    Forbidden,
    Wrong(String),
    Full,
    OverQuota,
    Busy,
    /// The answer gets lost.
    Lost,
}

impl Refusal {
    pub(crate) fn of(error: &ProviderError) -> Self {
        match error {
            ProviderError::Auth { .. } => Self::Unauthorised,
            ProviderError::Capacity { .. } => Self::Full,
            ProviderError::Quota { .. } => Self::OverQuota,
            ProviderError::Transient { .. } => Self::Busy,
            ProviderError::Ambiguous { .. } => Self::Lost,
            other => Self::Wrong(other.to_string()),
        }
    }
}
