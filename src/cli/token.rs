//! `qbc token`: a new token, and its lines for the access file of a node.

use super::output::print_line;
use crate::access::{self, Pattern, Role, Secret, TokenName};

/// What `qbc token` takes.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qbc token --name billing --role write --chains 'orders-*'
  qbc token --name audit --role read                        on all chains
  qbc token --name admin --role read,write,operate | tee /dev/tty | tail -n +2 >> access.toml
  qbc serve --host 0.0.0.0 --access access.toml

The first line is the token: give it to whoever is to use it (QBC_TOKEN), and keep it nowhere else. The lines behind it are for
the access file, and hold no secret. No role includes another.")]
pub struct TokenArgs {
    /// Whose it is: the name stands in the node's log
    #[arg(long, value_name = "NAME")]
    name: TokenName,
    /// What it may do: read, write (inject, leap), operate (bang, fork, erase, writers, freeze, import, mirror, discover, cluster); may be repeated
    #[arg(long, value_name = "ROLE", value_delimiter = ',', required = true)]
    role: Vec<Role>,
    /// On which chains: a name, or a pattern such as 'orders-*'; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', default_value = "*")]
    chains: Vec<Pattern>,
}

/// Prints a new token and its lines.
///
/// # Errors
/// Nobody takes them.
pub fn run(args: TokenArgs) -> anyhow::Result<()> {
    let mut roles = args.role;
    roles.sort_by_key(|role| *role as u8);
    roles.dedup();
    let secret = Secret::new(rand::random());
    let entry = access::entry(&args.name, secret.digest(), &roles, &args.chains);
    print_line(format_args!("{}\n{entry}", secret.reveal()))
}
