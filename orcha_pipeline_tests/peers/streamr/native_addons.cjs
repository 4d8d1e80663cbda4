// Loaded before all else (node --require). Two addons of @streamr/sdk come as binaries from GitHub or from a compiler:
// WebRTC (node-datachannel) and the store of encryption keys (sqlite3). A node on loopback that takes part raw and by
// websocket uses neither. Each can be imported here, and using it is an error: nothing is pretended.
const Module = require('node:module')

const unavailable = (what) =>
  class {
    constructor() {
      throw new Error(`${what} is not part of these tests`)
    }
  }

const webrtc = { initLogger() {}, PeerConnection: unavailable('WebRTC (node-datachannel)') }
const sqlite = { Database: unavailable('the store of encryption keys (sqlite3)') }

const load = Module._load
Module._load = function (request, ...rest) {
  if (request.endsWith('/node_datachannel.node')) return webrtc
  if (request === 'sqlite3') return sqlite
  return load.call(this, request, ...rest)
}
