// What the scenarios share: settings for one of the two protocols, sockets that can be cut, waiting with a bound.

import services from '@jupyterlab/services';
import WebSocket from 'ws';

const { KernelManager, KernelSpecManager, ServerConnection, SessionManager } = services;

export const KERNEL = 'kernelgate-python';
const NOWHERE = 'ws://127.0.0.1:1/';
const SOON = 20_000;

export const pause = ms => new Promise(resolve => setTimeout(resolve, ms));

/** Settle as `promise` does; fail when it has not after `ms`. */
export async function within(promise, what, ms = SOON) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Return what `look` returns as soon as that is true. */
export async function until(look, what, ms = SOON) {
  const deadline = Date.now() + ms;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`no ${what} within ${ms} ms`);
    await pause(20);
  }
}

/** A server, seen through the managers of @jupyterlab/services. Everything it opened is closed by `dispose`. */
export class Gate {
  constructor(url, token, protocol) {
    this.sockets = [];
    this.away = false;
    const gate = this;
    class Socket extends WebSocket {
      constructor(address, protocols) {
        super(gate.away ? NOWHERE : address, protocol === 'v1' ? protocols : []);
        if (!gate.away) gate.sockets.push(this);
      }
    }
    this.settings = ServerConnection.makeSettings({
      baseUrl: `${url}/`,
      wsUrl: `${url.replace('http', 'ws')}/`,
      token,
      appendToken: true,
      WebSocket: Socket
    });
    this.protocol = protocol;
    this.specs = new KernelSpecManager({ serverSettings: this.settings });
    this.kernels = new KernelManager({ serverSettings: this.settings });
    this.sessions = new SessionManager({ kernelManager: this.kernels, serverSettings: this.settings });
  }

  /** Start a session with a kernel of its own and wait until the kernel has said what it is. */
  async start(path = 'folder/of the client/notebook.ipynb') {
    const name = path.split('/').at(-1);
    const session = await this.sessions.startNew({ path, name, type: 'notebook', kernel: { name: KERNEL } });
    await within(session.kernel.info, 'kernel_info_reply');
    return session;
  }

  /** Close the last socket as a network that breaks does, without a word; there is no network until `away` is false. */
  cut() {
    this.away = true;
    this.sockets.at(-1)._socket.resetAndDestroy();
  }

  /** Close everything. A poll that is disposed keeps its timer, and Node with it, unless it was stopped before. */
  async dispose() {
    const polls = [this.sessions._pollModels, this.kernels._pollModels, this.specs._pollSpecs];
    await Promise.all(polls.map(poll => poll.stop()));
    this.sessions.dispose();
    this.kernels.dispose();
    this.specs.dispose();
  }
}

/** An execution: its future, the outputs so far, and its reply in the end. */
export class Run {
  constructor(kernel, code, options = {}) {
    this.outputs = [];
    this.future = kernel.requestExecute({ code, ...options });
    this.future.onIOPub = message => {
      const { msg_type: type } = message.header;
      if (type !== 'status' && type !== 'execute_input') this.outputs.push({ type, ...message.content });
    };
  }

  /** What was written to a stream. */
  text(name = 'stdout') {
    return this.outputs.filter(output => output.name === name).map(output => output.text).join('');
  }

  /** The outputs in short, with parts of one stream joined. */
  get kinds() {
    const kinds = this.outputs.map(output => (output.type === 'stream' ? output.name : output.type));
    return kinds.filter((kind, index) => kind !== kinds[index - 1] || !kind.startsWith('std'));
  }

  async reply() {
    return (await within(this.future.done, 'execute_reply')).content;
  }

  async printed(text) {
    await until(() => this.text().includes(text), `output ${JSON.stringify(text)}`);
  }
}

/** Run code that must succeed; returns what it printed. */
export async function printed(kernel, code) {
  const run = new Run(kernel, code);
  const reply = await run.reply();
  if (reply.status !== 'ok') throw new Error(JSON.stringify(reply));
  return run.text();
}
