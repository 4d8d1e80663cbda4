// A real Streamr node on loopback: `node node.cjs '{"nodeId", "privateKey", "port", "infoPort", "entryPoint", "streams"}'`.
// It takes part in the first partition of each stream and serves what @streamr/node's `info` plugin serves: getDiagnosticInfo().
// SIGTERM closes it.
const http = require('node:http')
const { StreamrClient } = require('@streamr/sdk')

const given = JSON.parse(process.argv[2])
const peer = ({ nodeId, port }) => ({ nodeId, websocket: { host: '127.0.0.1', port, tls: false } })
const NOWHERE = 'http://127.0.0.1:9' // a raw subscription asks neither chain nor subgraph

const client = new StreamrClient({
  metrics: false,
  auth: { privateKey: given.privateKey },
  network: {
    controlLayer: {
      websocketHost: '127.0.0.1',
      websocketPortRange: { min: given.port, max: given.port },
      websocketServerEnableTls: false,
      peerDescriptor: peer(given),
      entryPoints: [peer(given.entryPoint)],
      entryPointDiscovery: { enabled: false },
      iceServers: [],
    },
  },
  contracts: { ethereumNetwork: { chainId: 137 }, rpcs: [{ url: NOWHERE }], theGraphUrl: NOWHERE },
})

const server = http.createServer(async (request, response) => {
  if (request.url !== '/info') {
    response.writeHead(404, { 'content-type': 'text/html' }).end(`Cannot ${request.method} ${request.url}`)
    return
  }
  const info = await client.getDiagnosticInfo()
  response.writeHead(200, { 'content-type': 'application/json; charset=utf-8' }).end(JSON.stringify(info))
})

process.on('SIGTERM', async () => {
  server.close()
  server.closeAllConnections()
  await client.destroy()
  process.exit(0)
})

Promise.all(given.streams.map((id) => client.subscribe({ id, partition: 0, raw: true }, () => {}))).then(
  () => server.listen(given.infoPort, '127.0.0.1'),
  (error) => {
    console.error(error)
    process.exit(1)
  },
)
