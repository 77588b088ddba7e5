// node run.mjs SCENARIO PROTOCOL URL: runs a scenario with the key in the variable TOKEN, shuts down what it started,
// and disposes everything, so that Node ends by itself. PROTOCOL is v1 or legacy.

import { Gate } from './gate.mjs';
import * as scenarios from './scenarios.mjs';

const [scenario, protocol, url] = process.argv.slice(2);
const gate = new Gate(url, process.env.TOKEN, protocol);
try {
  await scenarios[scenario](gate);
} finally {
  await gate.sessions.refreshRunning();
  await gate.sessions.shutdownAll();
  await gate.dispose();
}
