//! Equinix Metal: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Listed, Region, Sku, without_api};

/// Keys of provider `equinix`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Project id.
    project: String,
    /// Metro, `da`.
    metro: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "equinix",
    about: "Equinix Metal",
    credentials: &["METAL_AUTH_TOKEN", "PACKET_AUTH_TOKEN"],
    kept: &["METAL_AUTH_TOKEN"],
    kept_beside: &[],
    stands_for_itself: &[],
    sign_in: "",
    files: |_| vec![],
    tools: &[],
    endpoint: |world, keys| {
        crate::provider::http::endpoint(
            world,
            "equinix",
            keys["endpoint"].as_str(),
            "https://api.equinix.com/metal/v1",
        )
    },
    default_sku: Sku::fixed("c3.small.x86"),
    default_region: Region::fixed("da"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(30),
    provision_timeout: Duration::from_mins(40),
    user_data_limit: 65535,
    cloud_clock: true,
    timer_stops_bill: false,
    region_key: "metro",
    init_keys: || "  project: 00000000-0000-0000-0000-000000000000\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect: |_, config, _| without_api::<Config>("equinix", config),
};

fn kvm(_sku: &Sku) -> KvmSupport {
    // Every plan is real hardware.
    KvmSupport::Yes
}

const SOURCE: &str = "list price of 2023, not confirmed since";
static PRICES: &[Listed] = &[
    Listed::new("c3.small.x86", "", 750_000, "USD", SOURCE),
    Listed::new("m3.small.x86", "", 1_050_000, "USD", SOURCE),
    Listed::new("c3.medium.x86", "", 1_500_000, "USD", SOURCE),
];
