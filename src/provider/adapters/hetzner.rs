//! Hetzner Cloud: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Listed, Region, Sku, without_api};

/// Keys of provider `hetzner`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Location, `ash`.
    location: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "hetzner",
    about: "Hetzner Cloud; no KVM on any type",
    credentials: &["HCLOUD_TOKEN"],
    kept: &["HCLOUD_TOKEN"],
    kept_beside: &[],
    stands_for_itself: &[],
    sign_in: "",
    files: |_| vec![],
    tools: &[],
    endpoint: |world, keys| {
        crate::provider::http::endpoint(
            world,
            "hetzner",
            keys["endpoint"].as_str(),
            "https://api.hetzner.cloud/v1",
        )
    },
    default_sku: Sku::fixed("cpx51"),
    default_region: Region::fixed("ash"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(10),
    provision_timeout: Duration::from_mins(10),
    user_data_limit: 32768,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "location",
    init_keys: || "  location: ash\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect: |_, config, _| without_api::<Config>("hetzner", config),
};

fn kvm(_sku: &Sku) -> KvmSupport {
    // No Hetzner Cloud type has nested virtualisation (measured on CCX, CPX and CAX, 2026-05).
    KvmSupport::No
}

const SOURCE: &str = "list price without VAT, 2026-08";
static PRICES: &[Listed] = &[
    Listed::new("cpx51", "", 382_000, "EUR", SOURCE),
    Listed::new("cpx62", "", 209_000, "EUR", SOURCE),
    Listed::new("ccx33", "", 223_000, "EUR", SOURCE),
    Listed::new("cax41", "", 66_000, "EUR", SOURCE),
];
