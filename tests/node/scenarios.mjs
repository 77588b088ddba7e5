// What a client built on @jupyterlab/services does. Each function is one test; it fails by throwing.

import assert from 'node:assert/strict';
import { Gate, KERNEL, Run, pause, printed, until, within } from './gate.mjs';

/** Milliseconds in which a client's acknowledgement of what it has read reaches the server. */
const READ = 250;
const NUMBERS = Array.from({ length: 40 }, (_, index) => `${index}\n`).join('');
const COUNT = `
import time
for i in range(40):
    print(i, flush=True)
    time.sleep(1 if i == 9 else 0.03)
'end'`;

export async function kernelspecs(gate) {
  await within(gate.specs.ready, 'kernelspecs');
  const { default: name, kernelspecs: specs } = gate.specs.specs;
  assert.equal(name, KERNEL);
  assert.equal(specs[KERNEL].language, 'python');
  assert.ok(specs[KERNEL].display_name);
}

export async function wrong_token(gate) {
  const stranger = new Gate(gate.settings.baseUrl.slice(0, -1), 'no-key', gate.protocol);
  try {
    await assert.rejects(within(stranger.start(), 'refusal'), error => error.response?.status === 401);
  } finally {
    await stranger.dispose();
  }
}

export async function session(gate) {
  const session = await gate.start('a folder/ä.ipynb');
  assert.deepEqual([session.path, session.name, session.type], ['a folder/ä.ipynb', 'ä.ipynb', 'notebook']);
  assert.equal(gate.sockets.at(-1).protocol, gate.protocol === 'v1' ? 'v1.kernel.websocket.jupyter.org' : '');
  const info = await session.kernel.info;
  assert.equal(info.language_info.name, 'python');
  await session.setPath('b.ipynb');
  const found = await gate.sessions.findByPath('b.ipynb');
  assert.equal(found.id, session.id);
  assert.equal(found.kernel.id, session.kernel.id);
  const { id } = session.kernel;
  assert.ok(await gate.kernels.findById(id));
  await session.shutdown();
  await gate.kernels.refreshRunning();
  assert.equal(await gate.kernels.findById(id), undefined);
  await gate.sessions.refreshRunning();
  assert.equal(await gate.sessions.findByPath('b.ipynb'), undefined);
}

export async function outputs(gate) {
  const { kernel } = await gate.start();
  const run = new Run(
    kernel,
    `
import sys
from IPython.display import clear_output, display
print('out')
print('err', file=sys.stderr)
shown = display({'text/plain': 'old', 'image/png': 'aGVsbG8='}, raw=True, display_id='there')
shown.update({'text/plain': 'new'}, raw=True)
clear_output(wait=True)
6 * 7`
  );
  const reply = await run.reply();
  assert.equal(reply.status, 'ok');
  assert.equal(reply.execution_count, 1);
  const kinds = ['stdout', 'stderr', 'display_data', 'update_display_data', 'clear_output', 'execute_result'];
  assert.deepEqual([...run.kinds].sort(), [...kinds].sort());
  assert.deepEqual(run.kinds.slice(2), kinds.slice(2));
  const [shown, updated, cleared, result] = run.outputs.slice(-4);
  assert.deepEqual(shown.data, { 'text/plain': 'old', 'image/png': 'aGVsbG8=' });
  assert.equal(shown.transient.display_id, 'there');
  assert.deepEqual(updated.data, { 'text/plain': 'new' });
  assert.equal(updated.transient.display_id, 'there');
  assert.equal(cleared.wait, true);
  assert.deepEqual(result.data, { 'text/plain': '42' });
  assert.equal(result.execution_count, 1);
  await errors(kernel);
  await requests(kernel);
}

async function errors(kernel) {
  const failing = new Run(kernel, '1 / 0', { stop_on_error: true });
  const queued = new Run(kernel, 'print("never")');
  const reply = await failing.reply();
  assert.deepEqual([reply.status, reply.ename, reply.evalue], ['error', 'ZeroDivisionError', 'division by zero']);
  assert.deepEqual(failing.kinds, ['error']);
  assert.equal(failing.outputs[0].ename, 'ZeroDivisionError');
  assert.ok(failing.outputs[0].traceback.length);
  assert.notEqual((await queued.reply()).status, 'ok');
  assert.equal(queued.text(), '');
  assert.equal(await printed(kernel, 'print("on")'), 'on\n');
}

async function requests(kernel) {
  const ask = (request, what) => within(request, what).then(message => message.content);
  const completed = await ask(kernel.requestComplete({ code: 'impor', cursor_pos: 5 }), 'complete_reply');
  assert.ok(completed.matches.includes('import'));
  const inspected = await ask(kernel.requestInspect({ code: 'len', cursor_pos: 3, detail_level: 0 }), 'inspect_reply');
  assert.equal(inspected.found, true);
  const complete = await ask(kernel.requestIsComplete({ code: 'for i in x:' }), 'is_complete_reply');
  assert.equal(complete.status, 'incomplete');
}

export async function many_outputs(gate) {
  const { kernel } = await gate.start();
  const run = new Run(kernel, 'for i in range(600):\n    display(i)');
  assert.equal((await run.reply()).status, 'ok');
  const shown = run.outputs.map(output => output.data['text/plain']);
  assert.deepEqual(shown, Array.from({ length: 600 }, (_, index) => String(index)));
}

const ECHO = `
def take(comm, opened):
    @comm.on_msg
    def answer(message):
        comm.send({'said': message['content']['data'], 'first': opened['content']['data']},
                  buffers=[bytes(reversed(bytes(each))) for each in message['buffers']])
    comm.send({'opened': [bytes(each).hex() for each in opened['buffers']]})
    @comm.on_close
    def closed(message):
        print('closed', message['content']['data'], flush=True)
get_ipython().kernel.comm_manager.register_target('echo', take)
`;

export async function comm_from_the_client(gate) {
  const { kernel } = await gate.start();
  await printed(kernel, ECHO);
  const comm = kernel.createComm('echo');
  const heard = [];
  comm.onMsg = message => heard.push(message);
  comm.open({ a: 1 }, {}, [new Uint8Array([1, 2, 255]).buffer]);
  await until(() => heard.length === 1, 'answer to comm_open');
  assert.deepEqual(heard[0].content.data, { opened: ['0102ff'] });
  const large = new Uint8Array(300_001).map((_, index) => index % 251);
  await within(comm.send({ b: 'ü' }, {}, [new Uint8Array([3, 4, 0]), large]).done, 'end of comm_msg');
  await until(() => heard.length === 2, 'answer to comm_msg');
  assert.deepEqual(heard[1].content.data, { said: { b: 'ü' }, first: { a: 1 } });
  const [small, turned] = heard[1].buffers.map(bytes);
  assert.deepEqual([...small], [0, 4, 3]);
  assert.deepEqual(Buffer.from(turned), Buffer.from(large.reverse()));
  comm.close({ c: 2 }); // in a subshell, which goes with it: the kernel does not always tell its end
  const left = () => printed(kernel, 'print(len(get_ipython().kernel.comm_manager.comms))');
  await until(async () => (await left()) === '0\n', 'end of the comm in the kernel');
}

export async function comm_from_the_kernel(gate) {
  const { kernel } = await gate.start();
  const heard = [];
  kernel.registerCommTarget('page', (comm, opened) => {
    heard.push(['open', opened.content.data, ...opened.buffers.map(each => [...bytes(each)])]);
    comm.onMsg = message => {
      heard.push(['msg', message.content.data, ...message.buffers.map(each => [...bytes(each)])]);
      comm.send({ thanks: true }, {}, [new Uint8Array([7, 8])]);
    };
    comm.onClose = message => heard.push(['close', message.content.data]);
  });
  const open = `
from comm import create_comm
got = []
page = create_comm(target_name='page', data={'a': 1}, buffers=[b'\\x00\\x01'])
page.on_msg(lambda message: got.append((message['content']['data'], [bytes(each) for each in message['buffers']])))
page.send({'b': 2}, buffers=[b'', b'\\xff'])`;
  await printed(kernel, open);
  await until(() => heard.length === 2, 'comm_msg');
  const thanks = "[({'thanks': True}, [b'\\x07\\x08'])]\n";
  await until(async () => (await printed(kernel, 'print(got)')) === thanks, 'answer in the kernel');
  await printed(kernel, "page.close({'c': 3})");
  await until(() => heard.length === 3, 'comm_close');
  assert.deepEqual(heard, [
    ['open', { a: 1 }, [0, 1]],
    ['msg', { b: 2 }, [], [255]],
    ['close', { c: 3 }]
  ]);
}

/** The bytes of a message's buffer, which is a view or an ArrayBuffer, depending on the protocol. */
function bytes(buffer) {
  return ArrayBuffer.isView(buffer)
    ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)
    : new Uint8Array(buffer);
}

export async function interrupt(gate) {
  const { kernel } = await gate.start();
  const run = new Run(kernel, 'x = 41\nprint("started", flush=True)\nwhile True: pass');
  await run.printed('started');
  await within(kernel.interrupt(), 'answer to interrupt');
  const reply = await run.reply();
  assert.deepEqual([reply.status, reply.ename], ['error', 'KeyboardInterrupt']);
  assert.equal(await printed(kernel, 'print(x + 1)'), '42\n');
}

export async function restart(gate) {
  const { kernel } = await gate.start();
  const { id } = kernel;
  await printed(kernel, 'x = 41');
  const busy = new Run(kernel, 'print("started", flush=True)\nwhile True: pass');
  const ended = busy.future.done.then(
    () => 'replied',
    () => 'canceled'
  );
  await busy.printed('started');
  await within(kernel.restart(), 'answer to restart');
  await within(ended, 'end of the execution');
  assert.equal(kernel.id, id);
  const run = new Run(kernel, 'print("x" in globals())');
  assert.equal((await run.reply()).execution_count, 1);
  assert.equal(run.text(), 'False\n');
}

export async function death(gate) {
  const { kernel } = await gate.start();
  await printed(kernel, 'x = 41');
  const statuses = [];
  kernel.statusChanged.connect((_, status) => statuses.push(status));
  const run = new Run(kernel, 'import os\nos._exit(3)');
  const reply = await run.reply();
  assert.deepEqual([reply.status, reply.ename], ['error', 'KernelDied']);
  assert.equal(run.outputs.at(-1).ename, 'KernelDied');
  await until(() => statuses.includes('autorestarting') && statuses.at(-1) === 'idle', 'end of the restart');
  assert.equal(await printed(kernel, 'print(x + 1)'), '42\n');
  assert.equal(statuses.filter(status => status === 'autorestarting').length, 1);
  assert.equal(gate.sockets.length, 2);
}

export async function input(gate) {
  const { kernel } = await gate.start();
  const run = new Run(kernel, "from getpass import getpass\nprint(input('Who? '), getpass('Word? '))");
  const asked = [];
  run.future.onStdin = message => {
    asked.push([message.content.prompt, message.content.password]);
    kernel.sendInputReply({ status: 'ok', value: ['Ada', 'sesame'][asked.length - 1] }, message.header);
  };
  assert.equal((await run.reply()).status, 'ok');
  assert.deepEqual(asked, [
    ['Who? ', false],
    ['Word? ', true]
  ]);
  assert.equal(run.text(), 'Ada sesame\n');
  const alone = new Run(kernel, 'input()', { allow_stdin: false });
  assert.equal((await alone.reply()).ename, 'StdinNotImplementedError');
}

export async function reconnect_during_a_run(gate) {
  const { kernel } = await gate.start();
  const run = new Run(kernel, COUNT);
  await run.printed('9\n');
  await pause(READ);
  gate.cut();
  await pause(1000);
  assert.ok(run.text().endsWith('9\n'));
  gate.away = false;
  assert.equal((await run.reply()).status, 'ok');
  assert.equal(run.text(), NUMBERS);
  assert.deepEqual(run.kinds, ['stdout', 'execute_result']);
  assert.equal(gate.sockets.length, 2);
}

export async function reconnect_after_a_run(gate) {
  const { kernel: witness } = await gate.start();
  const kernel = gate.kernels.connectTo({ model: witness.model });
  await within(kernel.info, 'kernel_info_reply');
  const statuses = [];
  witness.statusChanged.connect((_, status) => statuses.push(status));
  const run = new Run(kernel, 'import time\nprint("before", flush=True)\ntime.sleep(0.6)\nprint("after")\n6 * 7');
  await run.printed('before');
  await pause(READ);
  gate.cut();
  await until(() => statuses.at(-1) === 'idle', 'end of the run');
  assert.equal(run.text(), 'before\n');
  gate.away = false;
  const reply = await run.reply();
  assert.deepEqual([reply.status, reply.execution_count], ['ok', 1]);
  assert.equal(run.text(), 'before\nafter\n');
  assert.deepEqual(run.kinds, ['stdout', 'execute_result']);
  assert.equal(await printed(kernel, 'print("next")'), 'next\n');
  kernel.dispose();
}

export async function two_connections(gate) {
  const { kernel: one } = await gate.start();
  const two = gate.kernels.connectTo({ model: one.model });
  await within(two.info, 'kernel_info_reply');
  const seen = [];
  two.iopubMessage.connect((_, message) => seen.push(message));
  const replies = [];
  two.anyMessage.connect((_, { direction, msg }) => {
    if (direction === 'recv' && msg.header.msg_type === 'execute_reply') replies.push(msg.parent_header.msg_id);
  });
  const run = new Run(one, 'x = 41\nprint("of one")');
  await run.reply();
  const mine = message => message.parent_header.msg_id === run.future.msg.header.msg_id;
  await until(() => seen.some(message => mine(message) && message.content.execution_state === 'idle'), 'idle');
  const types = seen.filter(mine).map(message => message.header.msg_type);
  assert.deepEqual(types, ['status', 'execute_input', 'stream', 'status']);
  assert.equal(await printed(two, 'print(x + 1)'), '42\n');
  assert.equal(replies.length, 1);
  two.dispose();
  assert.equal(await printed(one, 'print("still", x)'), 'still 41\n');
}

export async function shutdown(gate) {
  const { kernel: one } = await gate.start();
  const two = gate.kernels.connectTo({ model: one.model });
  await within(two.info, 'kernel_info_reply');
  const statuses = [];
  two.statusChanged.connect((_, status) => statuses.push(status));
  const { id } = one;
  await within(one.shutdown(), 'answer to shutdown');
  await until(() => two.isDisposed || statuses.includes('dead'), 'end of the other connection');
  await gate.kernels.refreshRunning();
  assert.equal(await gate.kernels.findById(id), undefined);
}
