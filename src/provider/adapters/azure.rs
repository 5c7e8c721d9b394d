//! Microsoft Azure: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Listed, Region, Sku, without_api};

/// Keys of provider `azure`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Location, `eastus`.
    location: Option<String>,
    /// Subscription that pays.
    subscription: String,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "azure",
    about: "Microsoft Azure; KVM by nested virtualisation",
    credentials: &["AZURE_CLIENT_SECRET", "ARM_CLIENT_SECRET"],
    tools: &[],
    endpoint: "https://management.azure.com",
    default_sku: Sku::fixed("Standard_D4s_v3"),
    default_region: Region::fixed("eastus"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_mins(1),
    provision_timeout: Duration::from_mins(20),
    user_data_limit: 65535,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "location",
    init_keys: || "  subscription: 00000000-0000-0000-0000-000000000000\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect: |_, config, _| without_api::<Config>("azure", config),
};

fn kvm(sku: &Sku) -> KvmSupport {
    // By family: Azure's API has no field for it (Azure size pages, 'Nested Virtualization: Supported').
    let name = sku.as_str();
    let nests = name.starts_with("Standard_D") || name.starts_with("Standard_E");
    if nests && ["_v3", "_v4", "_v5", "_v6"].iter().any(|version| name.ends_with(version)) {
        KvmSupport::Yes
    } else if name.starts_with("Standard_A") || name.starts_with("Standard_B") {
        KvmSupport::No
    } else {
        KvmSupport::Unknown
    }
}

static PRICES: &[Listed] = &[
    Listed::new("Standard_D4s_v3", "eastus", 192_000, "USD", "list price, 2026-08"),
    Listed::new("Standard_D4s_v3", "westeurope", 240_000, "USD", "list price, 2025-03"),
    Listed::new("Standard_D4s_v5", "eastus", 192_000, "USD", "list price, 2026-09"),
    Listed::new(
        "Standard_D8s_v3",
        "eastus",
        384_000,
        "USD",
        "twice the list price of Standard_D4s_v3, 2026-08",
    ),
    Listed::new(
        "Standard_D8s_v3",
        "westeurope",
        480_000,
        "USD",
        "twice the list price of Standard_D4s_v3, 2025-03",
    ),
];
