//! Latitude.sh: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Listed, Region, Sku, without_api};

/// Keys of provider `latitude`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Project id or slug.
    project: String,
    /// Site, `ASH`.
    site: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "latitude",
    about: "Latitude.sh bare metal",
    credentials: &["LATITUDESH_AUTH_TOKEN", "LATITUDESH_BEARER"],
    kept: &["LATITUDESH_AUTH_TOKEN"],
    kept_beside: &[],
    stands_for_itself: &[],
    sign_in: "",
    files: |_| vec![],
    tools: &[],
    endpoint: |world, keys| {
        crate::provider::http::endpoint(
            world,
            "latitude",
            keys["endpoint"].as_str(),
            "https://api.latitude.sh",
        )
    },
    default_sku: Sku::fixed("c3-small-x86"),
    default_region: Region::fixed("ASH"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(30),
    provision_timeout: Duration::from_mins(40),
    user_data_limit: 65535,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "site",
    init_keys: || "  project: my-project\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect: |_, config, _| without_api::<Config>("latitude", config),
};

fn kvm(_sku: &Sku) -> KvmSupport {
    // Every server plan is real hardware.
    KvmSupport::Yes
}

const US: &str = "recorded from the API, 2024-08";
static PRICES: &[Listed] = &[
    Listed::new("c2-small-x86", "ASH", 210_000, "USD", US),
    Listed::new("c2-small-x86", "CHI", 210_000, "USD", US),
    Listed::new("c2-small-x86", "DAL", 210_000, "USD", US),
    Listed::new("c2-small-x86", "LAX", 210_000, "USD", US),
    Listed::new("c2-small-x86", "MIA", 210_000, "USD", US),
    Listed::new("c2-small-x86", "NYC", 210_000, "USD", US),
    Listed::new("c2-small-x86", "SAO", 180_000, "USD", "recorded from the API, 2025-05"),
];
