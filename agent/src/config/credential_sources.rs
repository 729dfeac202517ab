//! The places of credentials that the variables of the environment name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use agent_process::credentials::CredentialSources;
use agent_types::secrets;

use super::secrets_file::VARIABLE as SECRETS_FILE;
use super::variables::Variables;

/// The places of credentials that the variables name.
pub fn credential_sources(variables: &Variables) -> CredentialSources {
    const FILES: [&str; 5] = [
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        SECRETS_FILE,
    ];
    const ENDPOINTS: [&str; 2] = ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"];
    CredentialSources {
        variables: variables
            .iter()
            .filter(|(name, value)| secrets::is_secret(name, value))
            .map(|(name, _)| name.to_owned())
            .collect(),
        files: FILES.iter().filter_map(|name| Some(((*name).to_owned(), variables.path(name)?))).collect(),
        endpoints: ENDPOINTS.iter().filter_map(|name| endpoint(&variables.text(name)?)).collect(),
        homes: variables.path("HOME").into_iter().collect(),
        ..CredentialSources::default()
    }
}

/// The address in a URL; a name other than `localhost` is not resolved.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let url = url::Url::parse(text).ok()?;
    let address = match url.host()? {
        url::Host::Ipv4(address) => IpAddr::V4(address),
        url::Host::Ipv6(address) => IpAddr::V6(address),
        url::Host::Domain("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        url::Host::Domain(_) => return None,
    };
    Some(SocketAddr::new(address, url.port_or_known_default()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn credential_sources_are_the_values_of_known_variables() {
        let variables = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost:1338/x"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[fd00:ec2::254]"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/token"),
            ("DB_PASSWORD", "hunter22"),
            ("USE_TOKEN", "true"),
            ("https_proxy", "http://me:hunter22@proxy"),
            ("HOME", "/root"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.into()));
        let sources = credential_sources(&Variables::new(variables.into()));
        assert_eq!(sources.variables, ["DB_PASSWORD"], "layer code gets the proxy on purpose");
        assert_eq!(sources.files, [("AWS_WEB_IDENTITY_TOKEN_FILE".to_owned(), "/run/token".into())]);
        let endpoints = ["127.0.0.1:1338", "[fd00:ec2::254]:80"].map(|text| text.parse().unwrap());
        assert_eq!((sources.endpoints, sources.homes), (endpoints.to_vec(), vec!["/root".into()]));
        for text in ["", "x", "https://credentials.example/x", "http://"] {
            assert_eq!(endpoint(text), None, "{text:?}");
        }
    }
}
