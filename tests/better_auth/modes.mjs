// Which ways of handing out tokens do frontends use? Each mode is what a frontend's author writes into betterAuth({…}).
import { bearer, emailOTP, jwt, magicLink } from "better-auth/plugins";
import { SignJWT } from "jose";

// The secret's bytes as they are: neither decoded nor hashed.
const secret = new TextEncoder().encode(process.env.BETTER_AUTH_SECRET);

const keyPair = (alg) => ({ plugins: [jwt({ jwks: { keyPairConfig: { alg } } })] });
const cookieCache = { enabled: true, strategy: "jwt" };

export const modes = {
  // GET /api/auth/token hands out the token, /api/auth/jwks publishes the key.
  eddsa: { plugins: [jwt()] },
  es256: keyPair("ES256"),
  es512: keyPair("ES512"),
  rs256: keyPair("RS256"),
  ps256: keyPair("PS256"),
  rotation: { plugins: [jwt({ jwks: { rotationInterval: 2, gracePeriod: 60 } })] },
  serial: { advanced: { database: { generateId: "serial" } }, plugins: [jwt()] },

  // The plugin signs with the shared secret only when it is told how; `remoteUrl` must then be set and is never asked.
  hs256: {
    plugins: [
      jwt({
        jwks: { remoteUrl: "https://example.com/unused", keyPairConfig: { alg: "HS256" } },
        jwt: { sign: (claims) => new SignJWT(claims).setProtectedHeader({ alg: "HS256", typ: "JWT" }).sign(secret) },
      }),
    ],
  },

  // See ownToken.
  "own-route": {},

  // The cookie better-auth.session_data is a JWT.
  "cookie-cache": { session: { cookieCache } },

  // These hand out nothing that the API accepts.
  "session-cache": { session: { cookieCache }, plugins: [jwt({ sessionCookieCache: true })] },
  session: { plugins: [bearer()] },
  // Everything that is mailed to a person.
  mails: {
    emailAndPassword: { enabled: true, sendResetPassword: async ({ user, token }) => mail(user.email, token) },
    emailVerification: {
      sendOnSignUp: true,
      sendVerificationEmail: async ({ user, token }) => mail(user.email, token),
    },
    user: {
      changeEmail: {
        enabled: true,
        updateEmailWithoutVerification: true,
        sendChangeEmailConfirmation: async ({ user, token }) => mail(user.email, token),
      },
      deleteUser: { enabled: true, sendDeleteAccountVerification: async ({ user, token }) => mail(user.email, token) },
    },
    plugins: [
      magicLink({ sendMagicLink: async ({ email, token }) => mail(email, token) }),
      emailOTP({ sendVerificationOTP: async ({ email, otp }) => mail(email, otp) }),
    ],
  },
};

const mails = new Map();

function mail(address, token) {
  mails.set(address, token);
}

/** Return the token of the last mail to this address, once. */
export function mailed(address) {
  const token = mails.get(address);
  mails.delete(address);
  return token;
}

/** A route of the application's own that signs a token for whoever is signed in. */
export async function ownToken(auth, headers) {
  const session = await auth.api.getSession({ headers });
  return new SignJWT()
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(session.user.id)
    .setIssuedAt()
    .setExpirationTime("15m")
    .sign(secret);
}
