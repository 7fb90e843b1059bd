# flanneld-ts as an image, for one container on each host:
#
#   docker run -d --name flanneld --restart=always --net=host --cap-drop=ALL --cap-add=NET_ADMIN --cap-add=NET_RAW \
#     --security-opt=no-new-privileges --read-only -v /run:/run flanneld-ts --etcd-endpoints=http://10.0.0.1:2379
#
# The daemon writes /run/flannel/subnet.env and /run/docker_opts.env for the Docker it runs under or another one.

FROM node:24-bookworm-slim AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc LICENSE ./
COPY script script
RUN npm ci --cache /tmp/npm && rm -rf /tmp/npm
COPY src src
RUN npm run build

FROM node:24-bookworm-slim
# For the masquerade and forward rules, in either of the kernel's two ways.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends iptables nftables \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=build /src/dist /usr/lib/flanneld-ts
RUN ln -s /usr/lib/flanneld-ts/flanneld-ts.cjs /usr/local/bin/flanneld-ts

# The container shares the host's network: its probe asks on loopback only. A host where the port is taken chooses another.
ENV NODE_ENV=production FLANNELD_HEALTHZ_IP=127.0.0.1 FLANNELD_HEALTHZ_PORT=8471
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["flanneld-ts", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["flanneld-ts"]

LABEL org.opencontainers.image.title="flanneld-ts" \
      org.opencontainers.image.description="A host-gw network daemon: flanneld's job for Docker hosts on one L2 network, without an overlay" \
      org.opencontainers.image.licenses="Apache-2.0"
