//! How well the quota is shared, and what that costs. `cargo bench --bench quota [-- [--seed N] [SECTION…]]`

mod simulation;

use simulation::{Scenario, Settings, Way, simulate, table};

fn main() {
    let seed = 1;
    let settings = Settings::DEVREV;
    println!(
        "{} units in {} s, {} windows, the first not measured; at most {} requests under way per caller; seed {seed}\n",
        settings.limit,
        settings.window.as_secs(),
        settings.windows,
        settings.pool
    );
    let mut rows = vec![table::HEADINGS.map(str::to_owned).to_vec()];
    for scenario in Scenario::ALL {
        for way in Way::ALL {
            rows.push(table::row(
                scenario.name(),
                way.name(),
                &simulate(scenario, way, seed),
            ));
        }
    }
    println!("{}", table::render(&rows, 2));
}
