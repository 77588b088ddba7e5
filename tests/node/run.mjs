// node run.mjs SCENARIO URL: plays a scenario with both protocols of the WebSocket at once, as two owners, whose keys
// are in the variable TOKENS. Shuts down what it started and disposes everything, so that Node ends by itself.

import { Gate } from './gate.mjs';
import * as scenarios from './scenarios.mjs';

const [scenario, url] = process.argv.slice(2);
const tokens = process.env.TOKENS.split(',');

async function play(protocol, token) {
  const gate = new Gate(url, token, protocol);
  try {
    await scenarios[scenario](gate);
  } catch (error) {
    console.error(`with the protocol ${protocol}:`, error);
    process.exitCode = 1;
  } finally {
    gate.away = false;
    await gate.sessions.refreshRunning();
    await gate.sessions.shutdownAll();
    await gate.dispose();
  }
}

await Promise.all(['v1', 'legacy'].map((protocol, index) => play(protocol, tokens[index])));
