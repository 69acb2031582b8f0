FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund
COPY . .
# Any secret will do: nothing is signed while building.
RUN BETTER_AUTH_SECRET=$(node -p "crypto.randomBytes(32).toString('hex')") npm run build && npm prune --omit=dev

FROM node:24-slim
WORKDIR /app
COPY --from=build --chown=1000:1000 /app ./
ENV NODE_ENV=production
USER 1000:1000
EXPOSE 3000
CMD ["npm", "start"]
